//! Files that are fetched: under their names only once they are whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use ntrace_protocol::text::quote;
use uuid::Uuid;

use crate::failure::Failure;

/// Where a file goes.
#[derive(Debug)]
pub(crate) struct Target {
    /// Its name; `-` is stdout.
    pub(crate) output: PathBuf,
    /// Whether one that is there may be written over.
    pub(crate) force: bool,
}

impl Target {
    /// Whether it goes to stdout.
    pub(crate) fn is_stdout(&self) -> bool {
        self.output.as_os_str() == "-"
    }

    /// Begins it, unless it is there already.
    pub(crate) fn begin(&self) -> Result<Part, Failure> {
        if !self.force && self.output.symlink_metadata().is_ok() {
            let shown = quote(&self.output.to_string_lossy());
            return Err(Failure::Usage(format!(
                "{shown} exists; give another --output, or --force"
            )));
        }
        Part::create(self.output.clone())
    }
}

/// A file that is not whole yet; removed when it is not kept.
pub(crate) struct Part {
    path: PathBuf,
    output: PathBuf,
    file: File,
    is_kept: bool,
}

impl Part {
    fn create(output: PathBuf) -> Result<Self, Failure> {
        let Some(name) = output.file_name() else {
            let shown = quote(&output.to_string_lossy());
            return Err(Failure::Usage(format!("{shown} is no file's name")));
        };
        let mut part = OsString::from(".");
        part.push(name);
        part.push(format!(".{}.part", Uuid::now_v7().simple()));
        let path = output.with_file_name(part);
        let shown = quote(&path.to_string_lossy());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Failure::io(format!("create {shown}")))?;
        Ok(Self { path, output, file, is_kept: false })
    }

    /// Adds to it.
    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let shown = quote(&self.path.to_string_lossy());
        self.file
            .write_all(piece)
            .map_err(Failure::io(format!("write {shown}")))
    }

    /// It is whole: from now on it stands under its name.
    pub(crate) fn keep(mut self) -> Result<(), Failure> {
        let shown = quote(&self.output.to_string_lossy());
        fs::rename(&self.path, &self.output).map_err(Failure::io(format!(
            "rename the fetched file to {shown}"
        )))?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_kept {
            // It may be gone already; there is nobody to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}
