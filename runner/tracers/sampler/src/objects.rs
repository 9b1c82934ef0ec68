//! The files that processes run code from: opened when they are mapped, and
//! held, since they may be gone when a name is wanted.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use framehop::ExplicitModuleSectionInfo;

use crate::elf::{Elf, Table, Tables};
use crate::maps;
use crate::perf::record::Mapped;
use crate::zone::{self, ZoneFiles};

/// Files held at most. Beyond, code is counted without names.
const OBJECTS_MAX: usize = 4000;

/// Bytes of unwind tables held at most.
const TABLES_MAX: u64 = 128 << 20;

/// Which object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ObjectId(u32);

/// Unwind tables that several processes share.
pub(crate) type Sections = ExplicitModuleSectionInfo<Arc<[u8]>>;

/// One file with code.
#[derive(Debug)]
pub(crate) struct Object {
    path: PathBuf,
    file: Result<File, String>,
    elf: Option<Elf>,
    tables: Option<Tables>,
    /// The names that were taken out of it.
    debug: Option<File>,
}

/// All that were seen.
#[derive(Debug)]
pub(crate) struct Objects {
    all: Vec<Object>,
    known: HashMap<(u32, u32, u64, PathBuf), ObjectId>,
    budget: u64,
    overflow: bool,
}

impl Objects {
    /// None yet.
    pub(crate) fn new() -> Objects {
        Objects {
            all: Vec::new(),
            known: HashMap::new(),
            budget: TABLES_MAX,
            overflow: false,
        }
    }

    /// The kernel's code page, of which each process has the same: as we
    /// have it ourselves.
    pub(crate) fn add_vdso(&mut self) -> Option<ObjectId> {
        let file = own_vdso().ok()?;
        let elf = Elf::read(&file);
        let id = ObjectId(self.all.len() as u32);
        let path = PathBuf::from("[vdso]");
        let (file, tables, debug) = (Ok(file), None, None);
        self.all.push(Object { path, file, elf, tables, debug });
        Some(id)
    }

    /// The object of a mapping; opened if it is new.
    pub(crate) fn of(
        &mut self,
        mapped: &Mapped,
        files: &ZoneFiles,
    ) -> Option<ObjectId> {
        let (major, minor, inode) = mapped.inode;
        let key = (major, minor, inode, mapped.path.clone());
        if let Some(known) = self.known.get(&key) {
            return Some(*known);
        }
        if self.all.len() >= OBJECTS_MAX {
            self.overflow = true;
            return None;
        }
        let file = open(mapped, files);
        let elf = file.as_ref().ok().and_then(Elf::read);
        let id = ObjectId(self.all.len() as u32);
        let debug = match (&file, &elf) {
            (Ok(file), Some(elf)) => open_debug(file, elf, files),
            _ => None,
        };
        self.all.push(Object {
            path: mapped.path.clone(),
            file: file.map_err(|error| error.to_string()),
            elf,
            tables: None,
            debug,
        });
        self.known.insert(key, id);
        Some(id)
    }

    fn get(&self, id: ObjectId) -> &Object {
        &self.all[id.0 as usize]
    }

    /// The path under which the zone knows it.
    pub(crate) fn path(&self, id: ObjectId) -> &Path {
        &self.get(id).path
    }

    /// A path under which this process can read it, and its size.
    pub(crate) fn readable(&self, id: ObjectId) -> Option<(PathBuf, u64)> {
        let file = self.get(id).file.as_ref().ok()?;
        let size = file.metadata().ok()?.len();
        Some((zone::path_of(file), size))
    }

    /// A path under which this process can read the names that were taken
    /// out of it, where the zone has them.
    pub(crate) fn readable_debug(&self, id: ObjectId) -> Option<PathBuf> {
        self.get(id).debug.as_ref().map(zone::path_of)
    }

    /// Why it could not be opened.
    pub(crate) fn trouble(&self, id: ObjectId) -> Option<&str> {
        let object = self.get(id);
        match &object.file {
            Err(why) => Some(why),
            Ok(_) if object.elf.is_none() => {
                Some("it is no 64-bit program of this processor")
            }
            Ok(_) => None,
        }
    }

    /// Whether there were more than can be held.
    pub(crate) fn overflowed(&self) -> bool {
        self.overflow
    }

    /// The address that the file states for an offset in it.
    pub(crate) fn stated(&self, id: ObjectId, offset: u64) -> Option<u64> {
        self.get(id).elf.as_ref()?.address_of(offset)
    }

    /// Its unwind tables, read when they are first wanted.
    pub(crate) fn tables(&mut self, id: ObjectId) -> Option<&Tables> {
        let object = self.all.get_mut(id.0 as usize)?;
        if object.tables.is_none() {
            let (file, elf) =
                (object.file.as_ref().ok()?, object.elf.as_ref()?);
            object.tables = Some(elf.tables(file, &mut self.budget));
        }
        object.tables.as_ref()
    }
}

/// The file with the names of one that was stripped: by the identity of its
/// build, and not by what the file says, below the zone's own directory.
fn open_debug(file: &File, elf: &Elf, files: &ZoneFiles) -> Option<File> {
    if elf.has_symbols() {
        return None;
    }
    let id = elf.build_id(file)?;
    let hex = |bytes: &[u8]| -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let (first, rest) = id.split_at_checked(1)?;
    let name = format!("{}/{}.debug", hex(first), hex(rest));
    files.open(&Path::new("/usr/lib/debug/.build-id").join(name)).ok()
}

/// Copies our own vdso into a file of memory.
fn own_vdso() -> io::Result<File> {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;
    let text = std::fs::read("/proc/self/maps")?;
    let vdso = maps::parse(0, &text)
        .into_iter()
        .find(|one| maps::backing(&one.path) == maps::Backing::Vdso)
        .ok_or_else(|| io::Error::other("this process has no vdso"))?;
    let mut bytes = vec![0; vdso.length as usize];
    File::open("/proc/self/mem")?.read_exact_at(&mut bytes, vdso.start)?;
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("vdso", flags)?);
    file.write_all(&bytes)?;
    Ok(file)
}

fn open(mapped: &Mapped, files: &ZoneFiles) -> io::Result<File> {
    let end = mapped.start.saturating_add(mapped.length);
    // What is mapped, where that is permitted; else what has the name now,
    // for the process or for all of the zone; else the program itself,
    // which may have no name any more.
    files
        .open_mapped(mapped.pid, mapped.start, end)
        .or_else(|_| files.open_as(mapped.pid, &mapped.path))
        .or_else(|_| files.open(&mapped.path))
        .or_else(|error| {
            files.open_program(mapped.pid, &mapped.path).map_err(|_| error)
        })
}

impl Tables {
    /// For the unwinder. Tables are shared, not copied.
    pub(crate) fn sections(&self) -> Sections {
        let addresses = |table: &Option<Table>| {
            table.as_ref().map(|table| table.addresses.clone())
        };
        let bytes = |table: &Option<Table>| {
            table.as_ref().map(|table| table.bytes.clone())
        };
        ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma: self.text.clone(),
            got_svma: self.got.clone(),
            eh_frame_svma: addresses(&self.eh_frame),
            eh_frame: bytes(&self.eh_frame),
            eh_frame_hdr_svma: addresses(&self.eh_frame_hdr),
            eh_frame_hdr: bytes(&self.eh_frame_hdr),
            debug_frame: bytes(&self.debug_frame),
            ..Default::default()
        }
    }
}
