"""What made a result: the columns of its provenance."""

from __future__ import annotations

DEFINITION = """git_commit=''  : varchar(64)
        git_dirty      : enum('yes', 'no', 'unknown')
        code           : json          # role to class, module and sha256 of the module's text
        code_texts     : <stored_blob@external_training_result>  # sha256 to text
        packages       : json          # name to version
        python_version : varchar(32)
        host           : varchar(255)
        hardware       : json
        numerics       : json          # threads, deterministic flags, …: they change the bits
        choices        : json          # what the trainer chose where the row left it open
        notes          : json          # what a reader should know: lost parameters, ignored options"""
