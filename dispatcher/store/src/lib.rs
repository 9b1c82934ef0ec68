//! What the dispatcher keeps on disk: SQLite with one writer and group commit; output and artefact files.
