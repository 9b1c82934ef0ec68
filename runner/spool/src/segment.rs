//! One file of records.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ntrace_protocol::report::Stream;

use crate::SpoolError;
use crate::record::{Kind, Parsed, Record, Seqs, parse};

/// How much of a segment is read at once; holds any single record.
pub(crate) const READ: usize = 1024 * 1024;

/// A segment. Its bytes count against the spool's bound while it lives.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    path: PathBuf,
    file: File,
    length: u64,
    /// The highest numbers up to the end of this segment.
    last: Seqs,
    used: Arc<AtomicU64>,
    scratch: Vec<u8>,
}

impl Segment {
    /// A new segment that begins behind the given numbers.
    pub(crate) fn create(
        dir: &Path,
        number: u64,
        base: Seqs,
        used: &Arc<AtomicU64>,
    ) -> Result<Self, SpoolError> {
        let path = path_of(dir, number);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(SpoolError::io("create", &path))?;
        let mut segment = Self {
            number,
            path,
            file,
            length: 0,
            last: base,
            used: used.clone(),
            scratch: Vec::new(),
        };
        let begun = segment.append(&Record {
            stream: Stream::Control,
            kind: Kind::Base,
            seq: 0,
            when: 0,
            payload: &base.to_bytes(),
        });
        match begun {
            Ok(()) => Ok(segment),
            Err(error) => {
                // The name must be free for the next try; if even that
                // fails, the first error is the one to tell.
                let _ = segment.remove();
                Err(error)
            }
        }
    }

    /// A segment of a former life: reads it through, and cuts off what is
    /// torn. None if it has no sound beginning. Answers whether all of it
    /// was sound, and the numbers before it; `each` sees every record.
    pub(crate) fn recover(
        path: &Path,
        number: u64,
        used: &Arc<AtomicU64>,
        mut each: impl FnMut(&Record<'_>),
    ) -> Result<Option<Recovered>, SpoolError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(SpoolError::io("open", path))?;
        let on_disk =
            file.metadata().map_err(SpoolError::io("look at", path))?.len();
        used.fetch_add(on_disk, Ordering::Relaxed);
        let mut segment = Self {
            number,
            path: path.to_owned(),
            file,
            length: on_disk,
            last: Seqs::default(),
            used: used.clone(),
            scratch: Vec::new(),
        };
        let mut base = None;
        let mut last = Seqs::default();
        let sound = segment.walk(0, |record| {
            match (record.kind, base) {
                (Kind::Base, None) => {
                    base = Seqs::from_bytes(record.payload);
                    last = base.unwrap_or_default();
                    return base.is_some();
                }
                (Kind::Base, Some(_)) | (_, None) => return false,
                (_, Some(_)) => {}
            }
            if record.seq != last.get(record.stream) + 1 {
                return false;
            }
            *last.get_mut(record.stream) = record.seq;
            each(record);
            true
        })?;
        segment.length = sound;
        segment.last = last;
        used.fetch_sub(on_disk - sound, Ordering::Relaxed);
        let Some(base) = base else { return Ok(None) };
        if sound < on_disk {
            segment
                .file
                .set_len(sound)
                .map_err(SpoolError::io("cut the torn end of", path))?;
        }
        let whole = sound == on_disk;
        Ok(Some(Recovered { segment, base, whole }))
    }

    /// Appends a record. If it fails, nothing was appended: the next one is
    /// written to the same place.
    pub(crate) fn append(
        &mut self,
        record: &Record<'_>,
    ) -> Result<(), SpoolError> {
        self.scratch.clear();
        record.write(&mut self.scratch);
        self.file
            .write_all_at(&self.scratch, self.length)
            .map_err(SpoolError::io("append to", &self.path))?;
        let size = self.scratch.len() as u64;
        self.length += size;
        self.used.fetch_add(size, Ordering::Relaxed);
        if record.kind != Kind::Base {
            *self.last.get_mut(record.stream) = record.seq;
        }
        Ok(())
    }

    /// Goes through the records from `offset`, as long as `each` wants more;
    /// a record that `each` refuses is not passed. Answers where it stopped.
    pub(crate) fn walk(
        &self,
        offset: u64,
        mut each: impl FnMut(&Record<'_>) -> bool,
    ) -> Result<u64, SpoolError> {
        let mut at = offset;
        let mut buffer = Vec::new();
        while at < self.length {
            let want = usize::try_from(self.length - at).unwrap_or(READ);
            buffer.resize(want.min(READ), 0);
            self.file
                .read_exact_at(&mut buffer, at)
                .map_err(SpoolError::io("read", &self.path))?;
            let mut seen = 0;
            while let Parsed::Whole(record, size) = parse(&buffer[seen..]) {
                if !each(&record) {
                    return Ok(at + seen as u64);
                }
                seen += size;
            }
            if seen == 0 {
                // Torn, or damaged: there is nothing behind it to be read.
                break;
            }
            at += seen as u64;
        }
        Ok(at)
    }

    pub(crate) fn sync(&self) -> Result<(), SpoolError> {
        self.file.sync_data().map_err(SpoolError::io("sync", &self.path))
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn last(&self) -> Seqs {
        self.last
    }

    /// Deletes the file.
    pub(crate) fn remove(self) -> Result<(), SpoolError> {
        let path = &self.path;
        std::fs::remove_file(path).map_err(SpoolError::io("remove", path))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.used.fetch_sub(self.length, Ordering::Relaxed);
    }
}

/// A segment of a former life.
pub(crate) struct Recovered {
    pub(crate) segment: Segment,
    /// The numbers that were given out before it.
    pub(crate) base: Seqs,
    /// False: something was cut off.
    pub(crate) whole: bool,
}

pub(crate) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.seg"))
}

/// The number of a segment's file, by its name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    digits.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    digits.parse().ok()
}
