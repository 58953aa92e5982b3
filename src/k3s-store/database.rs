//! The history on disk: one SQLite table, one row per change, never changed once written.
//!
//! ```text
//! meta(name TEXT PRIMARY KEY, value INTEGER)      cluster_id, member_id, compacted
//! history(id INTEGER PRIMARY KEY,                 revision << 20 | place in its transaction
//!         key BLOB, create_revision INTEGER,
//!         version INTEGER,                        puts since creation, 0 for a deletion
//!         lease INTEGER, value BLOB)
//! lease(id INTEGER PRIMARY KEY, ttl INTEGER)      granted leases, seconds
//! ```
//!
//! There is no index on disk: rows are read by id, and `index.rs` knows the ids. The newest row is
//! never deleted, so the store's revision is the newest id's.
//!
//! Invariant: [`Database::commit`] returns after the write-ahead log is on the disk
//! (`synchronous=FULL`); what was not committed is gone after a crash, what was committed is not.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use tokio::time::Instant;

use crate::apply::{Change, State, Values};
use crate::failure::Failure;
use crate::index::{Garbage, Id, Version};
use crate::lessor::Lease;
use crate::log::Log;

/// "k3s" and the format's number, in SQLite's `application_id`.
const APPLICATION: i32 = 0x6b33_7301;
const FORMAT: i32 = 1;
/// Databases up to this size are checked page by page at every start.
const CHECK_MAX: u64 = 64 << 20;
/// Bytes of the log after which their content moves to the main file: when nothing else is to do,
/// and at the latest.
const CHECKPOINT_IDLE: u64 = 4 << 20;
const CHECKPOINT_BUSY: u64 = 16 << 20;
const PAGE: u64 = 4096;
/// What SQLite stores beside a row's key and value, at most.
const ROW: usize = 40;

/// The writing connection.
pub(crate) struct Database {
    connection: Connection,
    path: PathBuf,
    log: Log,
    /// Held as long as the database is open.
    _lock: File,
}

/// Who we are to etcd clients; random, made with the database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
}

impl Database {
    /// Opens or makes the database and reads all keys.
    pub(crate) fn open(path: &Path) -> Result<(Self, State, Identity)> {
        let name = path.display();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("database {name}: cannot make its folder"))?;
        }
        let lock = lock(path)?;
        let fresh = !path.exists();
        let opened = connect(path).and_then(|connection| {
            prepare(&connection, fresh)?;
            let identity = identity(&connection)?;
            let state = load(&connection)?;
            Ok((connection, state, identity))
        });
        let (connection, state, identity) = opened.map_err(|err| explain(path, err))?;
        let log = Log::new(path);
        let database = Self { connection, path: path.to_owned(), log, _lock: lock };
        Ok((database, state, identity))
    }

    pub(crate) fn begin(&self) -> Result<(), Failure> {
        self.execute("BEGIN IMMEDIATE")
    }

    /// Returns when everything since [`Database::begin`] is on the disk.
    pub(crate) fn commit(&mut self) -> Result<(), Failure> {
        // The page that is added to, and half of the time the one above it and the first.
        self.log.grow(2 * PAGE);
        self.log.make_room();
        self.execute("COMMIT")
    }

    pub(crate) fn roll_back(&self) -> Result<(), Failure> {
        // SQLite has done so already after some errors.
        if self.connection.is_autocommit() { Ok(()) } else { self.execute("ROLLBACK") }
    }

    pub(crate) fn insert(&mut self, change: &Change) -> Result<(), Failure> {
        let kv = change.kv();
        self.log.grow((kv.key.len() + kv.value.len() + ROW) as u64);
        let mut insert = self
            .connection
            .prepare_cached("INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        insert.execute(params![
            change.id.0,
            &kv.key[..],
            kv.create_revision,
            kv.version,
            kv.lease,
            &kv.value[..]
        ])?;
        Ok(())
    }

    pub(crate) fn insert_lease(&self, lease: &Lease) -> Result<(), Failure> {
        let mut insert = self.connection.prepare_cached("INSERT INTO lease VALUES (?1, ?2)")?;
        insert.execute(params![lease.id, lease.ttl])?;
        Ok(())
    }

    pub(crate) fn delete_lease(&self, id: i64) -> Result<(), Failure> {
        self.connection.prepare_cached("DELETE FROM lease WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    pub(crate) fn set_compacted(&self, revision: i64) -> Result<(), Failure> {
        let sql = "INSERT OR REPLACE INTO meta VALUES ('compacted', ?1)";
        self.connection.prepare_cached(sql)?.execute([revision])?;
        Ok(())
    }

    pub(crate) fn forget(&mut self, garbage: &[Garbage]) -> Result<(), Failure> {
        self.log.grow(garbage.len() as u64 * PAGE / 4);
        let mut delete = self.connection.prepare_cached("DELETE FROM history WHERE id = ?1")?;
        for row in garbage {
            delete.execute([row.id.0])?;
        }
        Ok(())
    }

    /// Whether the log is long enough to be moved to the main file.
    pub(crate) fn wants_checkpoint(&self, idle: bool) -> bool {
        self.log.used() >= if idle { CHECKPOINT_IDLE } else { CHECKPOINT_BUSY }
    }

    /// Moves the log into the main file. Readers keep what they need of it.
    pub(crate) fn checkpoint(&mut self) -> Result<(), Failure> {
        self.log.restart();
        match self.execute("PRAGMA wal_checkpoint(PASSIVE)") {
            // The log stays and grows until there is room.
            Err(Failure::NoSpace) => Ok(()),
            done => done,
        }
    }

    /// Rewrites the main file without its free pages.
    pub(crate) fn vacuum(&mut self) -> Result<(), Failure> {
        self.execute("VACUUM")?;
        self.log.restart();
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    }

    /// The last checkpoint; the log is empty after it.
    pub(crate) fn close(self) -> Result<()> {
        let name = self.path.display().to_string();
        self.connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
            .with_context(|| format!("database {name}: last checkpoint"))?;
        self.connection.close().map_err(|(_, err)| anyhow!("database {name}: close: {err}"))
    }

    fn execute(&self, sql: &str) -> Result<(), Failure> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }
}

impl Values for Database {
    fn value(&self, id: Id) -> Result<Bytes, Failure> {
        value(&self.connection, id)
    }
}

/// A reading connection.
pub(crate) struct Reader {
    connection: Connection,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let connection = connect(path)?;
        connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -256")?;
        Ok(Self { connection })
    }

    /// The values of many rows, in one snapshot.
    pub(crate) fn values(&self, ids: &[Id]) -> Result<Vec<Bytes>, Failure> {
        let snapshot = self.connection.unchecked_transaction()?;
        ids.iter().map(|id| value(&snapshot, *id)).collect()
    }

    /// Changes of `from <= revision <= to` in order, about `bytes` of them, whole revisions
    /// only, and the revision to go on from.
    pub(crate) fn history(
        &self,
        from: i64,
        to: i64,
        wanted: impl Fn(&[u8]) -> bool,
        bytes: usize,
    ) -> Result<(Vec<HistoryRow>, i64), Failure> {
        let sql = "SELECT id, key, create_revision, version, lease, value FROM history
                   WHERE id >= ?1 AND id < ?2 ORDER BY id";
        let mut select = self.connection.prepare_cached(sql)?;
        let mut rows = select.query([Id::first_of(from).0, Id::first_of(to + 1).0])?;
        let (mut found, mut size) = (Vec::<HistoryRow>::new(), 0);
        while let Some(row) = rows.next()? {
            let id = Id(row.get(0)?);
            if size >= bytes
                && found.last().is_some_and(|last| last.version.id.revision() < id.revision())
            {
                return Ok((found, id.revision()));
            }
            let key = blob(row, 1)?;
            if wanted(key) {
                let (key, value) =
                    (Bytes::copy_from_slice(key), Bytes::copy_from_slice(blob(row, 5)?));
                size += key.len() + value.len();
                let (create_revision, version, lease) = (row.get(2)?, row.get(3)?, row.get(4)?);
                let version = Version { id, create_revision, version, lease };
                found.push(HistoryRow { key, version, value });
            }
        }
        Ok((found, to + 1))
    }

    /// Bytes of the file, and how many of them hold something.
    pub(crate) fn size(&self) -> Result<(i64, i64), Failure> {
        let pragma =
            |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (page, pages, free) =
            (pragma("page_size")?, pragma("page_count")?, pragma("freelist_count")?);
        Ok((pages * page, (pages - free) * page))
    }

    /// Writes a consistent copy, which is a database of the same format.
    pub(crate) fn snapshot(&self, to: &Path) -> Result<()> {
        let name = to.display();
        if to.exists() {
            bail!("snapshot {name}: the file exists already");
        }
        let text = to.to_str().with_context(|| format!("snapshot {name}: not a UTF-8 path"))?;
        self.connection
            .execute_batch("PRAGMA query_only = OFF")
            .and_then(|()| self.connection.execute("VACUUM INTO ?1", [text]))
            .with_context(|| format!("snapshot {name}"))?;
        File::open(to).and_then(|f| f.sync_all()).with_context(|| format!("snapshot {name}: sync"))
    }
}

/// One row of the history.
pub(crate) struct HistoryRow {
    pub(crate) key: Bytes,
    pub(crate) version: Version,
    pub(crate) value: Bytes,
}

fn value(connection: &Connection, id: Id) -> Result<Bytes, Failure> {
    let mut select = connection.prepare_cached("SELECT value FROM history WHERE id = ?1")?;
    Ok(select.query_row([id.0], |row| Ok(Bytes::copy_from_slice(blob(row, 0)?)))?)
}

fn blob<'r>(row: &'r rusqlite::Row<'_>, column: usize) -> rusqlite::Result<&'r [u8]> {
    Ok(row.get_ref(column)?.as_blob()?)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // The log's index in our memory and not in a mapped file, which the kernel would write out.
    let connection = Connection::open_with_flags_and_vfs(path, flags, c"unix-excl")?;
    connection.execute_batch(
        "PRAGMA busy_timeout = 5000; PRAGMA cache_size = -512; PRAGMA mmap_size = 0;
         PRAGMA temp_store = MEMORY; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0",
    )?;
    Ok(connection)
}

/// Checks what is there, or lays out what is not.
fn prepare(connection: &Connection, fresh: bool) -> rusqlite::Result<()> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let empty: bool =
        connection
            .query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |r| r.get(0))?;
    if !fresh && !empty && pragma("application_id")? != APPLICATION {
        return Err(rusqlite::Error::InvalidParameterName("application_id".into()));
    }
    if pragma("user_version")? > FORMAT {
        return Err(rusqlite::Error::InvalidParameterName("user_version".into()));
    }
    connection.execute_batch("PRAGMA journal_size_limit = 16777216")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    if empty {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             PRAGMA application_id = {APPLICATION};
             PRAGMA user_version = {FORMAT};
             CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
             CREATE TABLE history (
                 id INTEGER PRIMARY KEY, key BLOB NOT NULL, create_revision INTEGER NOT NULL,
                 version INTEGER NOT NULL, lease INTEGER NOT NULL, value BLOB NOT NULL);
             CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL);
             INSERT INTO meta VALUES ('cluster_id', random()), ('member_id', random());
             COMMIT"
        ))?;
        return Ok(());
    }
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    if pages.unsigned_abs() * PAGE <= CHECK_MAX {
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            let verdict = verdict.replace('\n', " ");
            return Err(rusqlite::Error::SqliteFailure(code, Some(verdict)));
        }
    }
    Ok(())
}

fn identity(connection: &Connection) -> rusqlite::Result<Identity> {
    let id = |name| {
        let sql = "SELECT value FROM meta WHERE name = ?1";
        connection.query_row(sql, [name], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
    };
    Ok(Identity { cluster_id: id("cluster_id")?, member_id: id("member_id")? })
}

fn load(connection: &Connection) -> rusqlite::Result<State> {
    let mut state = State { revision: 1, compacted: -1, ..State::default() };
    let mut compacted = connection.prepare("SELECT value FROM meta WHERE name = 'compacted'")?;
    if let Some(row) = compacted.query([])?.next()? {
        state.compacted = row.get(0)?;
    }
    let now = Instant::now();
    let mut leases = connection.prepare("SELECT id, ttl FROM lease")?;
    let mut rows = leases.query([])?;
    while let Some(row) = rows.next()? {
        state.lessor.insert(Lease::new(row.get(0)?, row.get(1)?, now));
    }
    let sql = "SELECT id, key, create_revision, version, lease FROM history ORDER BY id";
    let mut history = connection.prepare(sql)?;
    let mut rows = history.query([])?;
    while let Some(row) = rows.next()? {
        let (create_revision, version, lease) = (row.get(2)?, row.get(3)?, row.get(4)?);
        let version = Version { id: Id(row.get(0)?), create_revision, version, lease };
        state.index.push(blob(row, 1)?, version);
        state.revision = version.id.revision();
    }
    let State { index, lessor, .. } = &mut state;
    for (key, version) in index.live() {
        lessor.attach(key, 0, version.lease);
    }
    Ok(state)
}

/// One process per database, by a lock that vanishes with the process.
fn lock(path: &Path) -> Result<File> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let name = path.display();
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .with_context(|| {
            format!("database {name}: cannot write to its folder (is it read-only, or owned by another user?)")
        })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = holder.trim();
            bail!(
                "database {name} is in use by another process (pid {holder}): stop that one first, or give this one another --db"
            );
        }
        Err(TryLockError::Error(err)) => {
            return Err(err).with_context(|| format!("database {name}: cannot lock it"));
        }
    }
    // Only a help for the message above; a full disk must not keep us from serving reads.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// One line with the remedy.
fn explain(path: &Path, err: rusqlite::Error) -> anyhow::Error {
    let name = path.display();
    match &err {
        rusqlite::Error::InvalidParameterName(what) if what == "application_id" => {
            anyhow!(
                "database {name} is an SQLite file of another program: give another --db, or move it away"
            )
        }
        rusqlite::Error::InvalidParameterName(_) => {
            anyhow!(
                "database {name} was written by a newer version: upgrade, or restore an older snapshot"
            )
        }
        rusqlite::Error::SqliteFailure(code, _) => match code.code {
            ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt => anyhow!(
                "database {name} is corrupt ({err}); nothing was changed: move {name}, {name}-wal and {name}-shm away together and put a snapshot in their place"
            ),
            ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => anyhow!(
                "database {name} cannot be written ({err}): check the owner and mode of the file and its folder, and that the file system is not read-only"
            ),
            ErrorCode::DiskFull => {
                anyhow!("database {name}: the disk is full: make room and start again")
            }
            _ => anyhow!("database {name}: {err}"),
        },
        _ => anyhow!("database {name}: {err}"),
    }
}
