//! The tables, and how an older file becomes a newer one.
//!
//! Migrations are numbered by their place in the list and only ever
//! appended; a file of a newer version is refused.

use rusqlite::Connection;

/// What each version added.
const MIGRATIONS: &[&str] = &[
    // 1: jobs, runs, artefacts.
    "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('lease', 0);

    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        state TEXT NOT NULL,
        priority INTEGER NOT NULL,
        submitted INTEGER NOT NULL,
        owner TEXT,
        repo TEXT,
        spec TEXT NOT NULL,
        run BLOB,
        lease INTEGER,
        stop_grace INTEGER,
        lost_begun INTEGER NOT NULL DEFAULT 0,
        lost_idle INTEGER NOT NULL DEFAULT 0,
        reason TEXT,
        sentence TEXT,
        exit TEXT,
        ended INTEGER
    ) STRICT;
    CREATE INDEX jobs_queue ON jobs (priority DESC, seq)
        WHERE state = 'queued';
    CREATE INDEX jobs_state ON jobs (state, seq);
    CREATE INDEX jobs_repo ON jobs (repo, seq) WHERE repo IS NOT NULL;

    CREATE TABLE labels (label TEXT, seq INTEGER, PRIMARY KEY (label, seq))
        STRICT, WITHOUT ROWID;
    CREATE INDEX labels_job ON labels (seq);

    CREATE TABLE runs (
        id BLOB PRIMARY KEY,
        job INTEGER NOT NULL,
        lease INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        runner TEXT,
        worker BLOB,
        state TEXT NOT NULL,
        reason TEXT,
        sentence TEXT,
        times TEXT NOT NULL,
        exit TEXT,
        usage TEXT,
        notes TEXT NOT NULL DEFAULT '[]',
        acked TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX runs_job ON runs (job, attempt);
    CREATE INDEX runs_live ON runs (lease) WHERE acked IS NULL;

    CREATE TABLE artefacts (
        id BLOB PRIMARY KEY,
        job INTEGER NOT NULL,
        run BLOB NOT NULL,
        name TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        UNIQUE (run, name)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX artefacts_job ON artefacts (job);

    -- Jobs whose rows are gone and whose files are still to be removed.
    CREATE TABLE removed (job BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
    ",
    // 2: traces, and which commit comes before which.
    "
    ALTER TABLE runs ADD COLUMN trace TEXT;
    ALTER TABLE runs ADD COLUMN parents TEXT;
    ALTER TABLE jobs ADD COLUMN hash TEXT;
    UPDATE jobs SET hash = json_extract(spec, '$.source.commit')
        WHERE repo IS NOT NULL;
    CREATE INDEX jobs_hash ON jobs (hash, seq) WHERE hash IS NOT NULL;
    ",
    // 3: whether a stop asks for evidence.
    "
    ALTER TABLE jobs ADD COLUMN stop_evidence INTEGER NOT NULL DEFAULT 0;
    ",
];

/// Why a database cannot be brought to the present version.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// SQLite refused.
    #[error("cannot bring the database to version {to}")]
    Migrate {
        /// The version on the way.
        to: usize,
        /// Why not.
        source: rusqlite::Error,
    },
    /// Written by a newer program.
    #[error(
        "the database has version {found}, this program knows {known}; run \
         the newer program"
    )]
    TooNew {
        /// The file's version.
        found: usize,
        /// Ours.
        known: usize,
    },
}

/// Brings the database to the present version.
///
/// # Errors
/// It is newer than this program, or SQLite refused.
pub(crate) fn migrate(db: &mut Connection) -> Result<(), SchemaError> {
    let fail = |to| move |source| SchemaError::Migrate { to, source };
    let found: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(fail(0))?;
    let known = MIGRATIONS.len();
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    if found > known {
        return Err(SchemaError::TooNew { found, known });
    }
    for (at, sql) in MIGRATIONS.iter().enumerate().skip(found) {
        let to = at + 1;
        let tx = db.transaction().map_err(fail(to))?;
        tx.execute_batch(sql).map_err(fail(to))?;
        tx.pragma_update(None, "user_version", i64::try_from(to).unwrap_or(0))
            .map_err(fail(to))?;
        tx.commit().map_err(fail(to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_the_first_version_are_found_by_their_commit() {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch(MIGRATIONS[0]).unwrap();
        db.pragma_update(None, "user_version", 1).unwrap();
        let spec = r#"{"source":{"owner":"o","repo":"r","commit":"c0"}}"#;
        let text = "INSERT INTO jobs (id, state, priority, submitted, repo,
            spec) VALUES (?1, 'done', 0, 0, ?2, ?3)";
        db.execute(text, (b"1", Some("r"), spec)).unwrap();
        db.execute(text, (b"2", None::<&str>, "{}")).unwrap();
        migrate(&mut db).unwrap();
        let text = "SELECT count(*), max(hash) FROM jobs
            WHERE hash IS NOT NULL";
        let found: (u32, String) = db
            .query_row(text, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(found, (1, "c0".to_owned()));
    }

    #[test]
    fn a_newer_file_is_refused_and_the_same_one_is_left_alone() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db).unwrap();
        migrate(&mut db).unwrap();
        db.pragma_update(None, "user_version", 999).unwrap();
        let error = migrate(&mut db).unwrap_err();
        assert!(matches!(error, SchemaError::TooNew { found: 999, .. }));
    }
}
