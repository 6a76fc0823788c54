"""Which model class with which parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import datajoint as dj

from .config_table import ClassSlot, ConfigTable, class_slot
from .schema import schema


@schema
class ModelConfig(ConfigTable, dj.Manual):
    """A model class and its parameters; shapes and the dataset's additional parameters are added when a task is
    trained."""

    definition = """
    # A model class and its parameters
    model_config_md5_hash   : char(32)     # md5 of the content of this row
    ---
    model_class_module_name : varchar(255)
    model_class_name        : varchar(255)
    model_class_params      : json
    model_config_text       : json         # the text the key was made of
    """

    key_column = "model_config_md5_hash"
    text_column = "model_config_text"
    label = "model_config"
    # A dataset may supply any parameter that is missing here: this is checked when a task joins the two.
    slots: ClassVar[tuple[ClassSlot, ...]] = (class_slot("model", "model", lenient=("*",)),)
    required: ClassVar[tuple[str, ...]] = ("model_class_module_name", "model_class_name")
    defaults: ClassVar[Mapping[str, Any]] = {"model_class_params": {}}
