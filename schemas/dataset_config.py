"""Which data, read by which class, drawn by which samplers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import datajoint as dj

from .binding import Directories, Probe, services
from .config_table import ClassSlot, ConfigTable, class_slot
from .hashing import text_of
from .identity import Identity
from .keys import Keys
from .schema import Connected, schema, transaction

TIERS = ("train", "validation", "test")


@schema
class DatasetConfig(ConfigTable, dj.Manual):
    """A dataset: its file, the class that reads it, the samplers of its tiers, and what the class says of the data.

    `dataset_dir` is where data files lie and `dataset_cache_dir` where they are cached; the session's settings by
    default.
    """

    definition = """
    # A data file, the class that reads it and the samplers of its tiers
    dataset_config_md5_hash         : char(32)     # md5 of the content of this row
    ---
    dataset_file_name               : varchar(255)
    dataset_type                    : varchar(255) # a label of one's own
    dataset_class_module_name       : varchar(255)
    dataset_class_name              : varchar(255)
    dataset_class_params            : json
    train_sampler_module_name       : varchar(255)
    train_sampler_class_name        : varchar(255) # empty: shuffled
    train_sampler_class_params      : json
    validation_sampler_module_name  : varchar(255)
    validation_sampler_class_name   : varchar(255) # empty: in order
    validation_sampler_class_params : json
    test_sampler_module_name        : varchar(255)
    test_sampler_class_name         : varchar(255) # empty: in order
    test_sampler_class_params       : json
    dataset_file_sha256             : char(64)     # of the content, part of the key
    input_shape                     : json         # of one example, probed
    output_shape                    : json
    additional_model_params         : json         # what the dataset hands to every model
    example_counts                  : json         # examples that an epoch of each tier draws
    dataset_config_text             : json         # the text the key was made of
    """

    class Origin(Connected, dj.Part):
        """What a data file says of itself: the files that belong to it, and where its content comes from."""

        definition = """
        -> master
        ---
        dataset_companions : json  # files beside the data file, name to sha256
        dataset_origin     : json  # of packed data: source and options
        """

    key_column = "dataset_config_md5_hash"
    text_column = "dataset_config_text"
    label = "dataset_config"
    slots: ClassVar[tuple[ClassSlot, ...]] = (
        class_slot("dataset", "dataset"),
        *(class_slot(f"{tier}_sampler", "sampler", optional=True) for tier in TIERS),
    )
    required: ClassVar[tuple[str, ...]] = ("dataset_file_name", "dataset_class_module_name", "dataset_class_name")
    defaults: ClassVar[Mapping[str, Any]] = {
        "dataset_type": "",
        "dataset_class_params": {},
        **{
            f"{tier}_sampler_{column}": empty
            for tier in TIERS
            for column, empty in (("module_name", ""), ("class_name", ""), ("class_params", {}))
        },
    }
    keyed_extra: ClassVar[tuple[str, ...]] = ("dataset_file_sha256",)

    def __init__(self, dataset_dir: str | None = None, dataset_cache_dir: str | None = None) -> None:
        super().__init__()
        self.directories = Directories(dataset_dir, dataset_cache_dir)

    def _extra(self, row: Mapping[str, Any]) -> dict[str, Any]:
        for slot in self.slots:  # classes and parameters are checked before the file is looked for
            self._bind(slot, row)
        prober = services(type(self).__name__).prober
        return {"dataset_file_sha256": prober.fingerprint(row, self.directories)}

    def _insert_identities(self, identities: Iterable[tuple[Identity, dict[str, Any]]]) -> Keys:
        checked = list(identities)  # all of them, before the first data file is opened
        stored = self._stored()
        probes: dict[str, Probe] = {}
        found: list[Probe | None] = []
        for identity, extra in checked:
            known = stored(identity)
            is_new = known.find(identity)[0] not in known.rows
            found.append(self._probed(identity, probes) if is_new else None)
            if (probe := found[-1]) is not None:
                extra.update(
                    input_shape=probe.input_shape,
                    output_shape=probe.output_shape,
                    additional_model_params=probe.additional_model_params,
                    example_counts=probe.example_counts,
                )
        if not any(probe is not None and (probe.companions or probe.origin) for probe in found):
            return super()._insert_identities(checked)
        # A store's garbage collection must never see the row without the files that belong to its data file.
        with transaction(self.connection):
            keys = super()._insert_identities(checked)
            self._insert_origins(keys, found)
        return keys

    def _insert_origins(self, keys: Keys, found: Iterable[Probe | None]) -> None:
        self.Origin().insert(
            (
                {**key, "dataset_companions": probe.companions, "dataset_origin": probe.origin}
                for key, probe in zip(keys, found, strict=True)
                if probe is not None and (probe.companions or probe.origin)
            ),
            skip_duplicates=True,
        )

    def _probed(self, identity: Identity, probes: dict[str, Probe]) -> Probe:
        params = {column: {**bound.complete, **bound.run} for column, bound in identity.bound.items()}
        row = {**identity.fields, **params}
        content = text_of(row)
        if content not in probes:
            probes[content] = services(type(self).__name__).prober.probe(row, self.directories)
        return probes[content]
