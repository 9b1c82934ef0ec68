//! Names of frames: functions with their files and lines, those that were
//! inlined too, demangled.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blazesym::MaybeDefault;
use blazesym::symbolize::source::{Elf, Kernel, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolizer};
use ntrace_profile::{FrameKind, Symbol, demangled, native, perf_map};

use crate::objects::ObjectId;
use crate::process::{Frame, Processes};

/// Longest name that is kept, in characters.
const NAME_MAX: usize = 1000;

/// Files above this size are named by their symbol table alone: reading
/// their debug information would take too much memory. Bytes.
const DEBUG_FILE_MAX: u64 = 512 << 20;

/// How far naming may go; each step is cheaper than the one before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Until then debug information is read: lines and inlined functions.
    pub debug: Instant,
    /// Until then symbol tables are read.
    pub symbols: Instant,
}

impl Budget {
    /// Half of the time for debug information, a quarter for symbol tables,
    /// the rest for what comes after.
    pub(crate) fn of(time: Duration) -> Budget {
        let now = Instant::now();
        Budget { debug: now + time / 2, symbols: now + time * 3 / 4 }
    }
}

/// Gives names, and remembers them.
pub(crate) struct Names {
    budget: Budget,
    hurried: bool,
    symbolizer: Symbolizer,
    /// Where the job's tree is: paths in it are shown relative to it.
    checkout: PathBuf,
    known: HashMap<Frame, Vec<Symbol<'static>>>,
}

impl Names {
    /// None yet.
    pub(crate) fn new(checkout: &Path, budget: Budget) -> Names {
        let none: Option<[&Path; 0]> = Some([]);
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            // Raw names are kept beside those that people read.
            .enable_demangling(false)
            // Debug files beside a program are named by the program, and a
            // job's program must not make us open what it likes.
            .set_debug_dirs(none)
            .build();
        let checkout = checkout.to_owned();
        let known = HashMap::new();
        Names { budget, hurried: false, symbolizer, checkout, known }
    }

    /// Sets new limits.
    pub(crate) fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
        // What there was no time for is tried again, as is what a runtime
        // may have named since.
        if std::mem::take(&mut self.hurried) {
            self.known.clear();
        }
        self.known.retain(|frame, _| !matches!(frame, Frame::Late(..)));
    }

    /// Whether names were left out for want of time.
    pub(crate) fn was_hurried(&self) -> bool {
        self.hurried
    }

    /// The names of a frame, outermost first: more than one where functions
    /// were inlined.
    pub(crate) fn of(
        &mut self,
        frame: Frame,
        processes: &Processes,
    ) -> &[Symbol<'static>] {
        if !self.known.contains_key(&frame) {
            let found = self.find(frame, processes);
            self.known.insert(frame, found);
        }
        &self.known[&frame]
    }

    fn find(
        &mut self,
        frame: Frame,
        processes: &Processes,
    ) -> Vec<Symbol<'static>> {
        match frame {
            Frame::Process(name) => {
                let name = processes.words.get(name).to_owned();
                vec![Symbol::new(name, FrameKind::Process)]
            }
            Frame::Cut => vec![nameless("[stack cut]", "")],
            Frame::Nameless => vec![nameless("[unnamed code]", "")],
            Frame::Made(name) => vec![self.made(processes.words.get(name))],
            Frame::Late(life, address) => {
                match processes.late_name(life, address) {
                    Some(name) => vec![self.made(name)],
                    None => vec![nameless("[unnamed code]", "")],
                }
            }
            Frame::Opaque(object) => {
                let module = module(object, processes);
                vec![nameless(&format!("[{module}]"), &module)]
            }
            Frame::Code(object, address) => {
                self.code(object, address, processes)
            }
            Frame::Kernel(address) => vec![self.kernel(address)],
        }
    }

    fn made(&self, name: &str) -> Symbol<'static> {
        let checkout = self.checkout.to_string_lossy();
        owned(perf_map(&bounded(name), &checkout))
    }

    fn code(
        &mut self,
        object: ObjectId,
        address: u64,
        processes: &Processes,
    ) -> Vec<Symbol<'static>> {
        let module = module(object, processes);
        let own = self.source(object, processes);
        let sym = self
            .debug_source(object, processes)
            .into_iter()
            .chain(own)
            .find_map(|from| self.ask(&from, Input::VirtOffset(address)));
        let Some(sym) = sym else {
            return vec![nameless(&format!("[{module}]"), &module)];
        };
        let outer = self.function(&sym.name, sym.code_info.as_deref(), &module);
        let inlined = sym.inlined.iter().map(|inlined| {
            let code = inlined.code_info.as_ref();
            let mut inner = self.function(&inlined.name, code, &module);
            inner.kind = FrameKind::Inlined;
            inner
        });
        std::iter::once(outer).chain(inlined).collect()
    }

    fn source(
        &mut self,
        object: ObjectId,
        processes: &Processes,
    ) -> Option<Source<'static>> {
        let now = Instant::now();
        self.hurried |= now >= self.budget.debug;
        if now >= self.budget.symbols {
            return None;
        }
        let (path, size) = processes.objects.readable(object)?;
        let mut elf = Elf::new(path);
        elf.debug_syms = now < self.budget.debug && size <= DEBUG_FILE_MAX;
        Some(elf.into())
    }

    /// The names that were taken out of a file. Not its lines, which are of
    /// the system's own libraries, and many.
    fn debug_source(
        &self,
        object: ObjectId,
        processes: &Processes,
    ) -> Option<Source<'static>> {
        if Instant::now() >= self.budget.symbols {
            return None;
        }
        let mut elf = Elf::new(processes.objects.readable_debug(object)?);
        elf.debug_syms = false;
        Some(elf.into())
    }

    fn kernel(&self, address: u64) -> Symbol<'static> {
        let source = Kernel {
            vmlinux: MaybeDefault::None,
            debug_syms: false,
            ..Kernel::default()
        };
        let sym = self.ask(&source.into(), Input::AbsAddr(address));
        let name = sym.map_or("[kernel]".to_owned(), |sym| bounded(&sym.name));
        Symbol::new(name, FrameKind::Kernel).in_module("[kernel]")
    }

    fn ask(
        &self,
        source: &Source<'_>,
        input: Input<u64>,
    ) -> Option<Sym<'static>> {
        // A file that cannot be read as what it claims to be has no names.
        let found = self.symbolizer.symbolize_single(source, input).ok()?;
        found.into_sym().map(Sym::into_owned)
    }

    fn function(
        &self,
        name: &str,
        code: Option<&CodeInfo<'_>>,
        module: &str,
    ) -> Symbol<'static> {
        let shown = bounded(&demangled(name));
        let mut symbol = owned(native(&shown, module));
        symbol.system_name = bounded(name).into();
        if let Some(code) = code {
            let path = code.to_path();
            let path = path.strip_prefix(&self.checkout).unwrap_or(&path);
            symbol.file = path.to_string_lossy().into_owned().into();
            symbol.line = code.line.unwrap_or(0);
        }
        symbol
    }
}

/// The last component of a file's path.
fn module(object: ObjectId, processes: &Processes) -> String {
    let path = processes.path(object);
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn nameless(name: &str, module: &str) -> Symbol<'static> {
    Symbol::new(name.to_owned(), FrameKind::Unknown)
        .in_module(module.to_owned())
}

fn owned(symbol: Symbol<'_>) -> Symbol<'static> {
    Symbol {
        name: symbol.name.into_owned().into(),
        system_name: symbol.system_name.into_owned().into(),
        module: symbol.module.into_owned().into(),
        file: symbol.file.into_owned().into(),
        line: symbol.line,
        kind: symbol.kind,
    }
}

fn bounded(name: &str) -> String {
    name.chars().take(NAME_MAX).collect()
}
