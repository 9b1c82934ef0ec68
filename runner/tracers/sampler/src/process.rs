//! The zone's processes as the records tell of them: names, code, and how a
//! sample of one becomes a stack of frames.
//!
//! Pids here are the zone's. What happened before sampling began is read
//! from the zone's /proc once, when a process is first met.

mod runtime;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::rc::Rc;

use crate::arch::Registers;
use crate::maps;
use crate::objects::{ObjectId, Objects};
use crate::perf::record::{Mapped, Record, Sample};
use crate::space::{Cache, Place, Space, Unwound};
use crate::words::{Word, Words};
use crate::zone::ZoneFiles;
use runtime::{Life, Lives, Runtime};

/// How long an ended process is remembered: records of other processors may
/// come later than its end. Nanoseconds.
const LINGER: u64 = 2_000_000_000;

/// Processes remembered at most.
const PROCESSES_MAX: usize = 20_000;

/// Names of the programs that carry the job: not part of it.
pub const CARRIERS: [&str; 3] = ["zone-job", "zlogin", "ntrace-runner"];

/// One frame of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Frame {
    /// The process; outermost.
    Process(Word),
    /// What the copied piece of stack did not reach.
    Cut,
    /// Code of a file, by the address that the file states.
    Code(ObjectId, u64),
    /// Code of a file that could not be read.
    Opaque(ObjectId),
    /// Code that a runtime made and named.
    Made(Word),
    /// Code that a runtime made, and may name when it ends.
    Late(Life, u64),
    /// Code that nobody named.
    Nameless,
    /// The kernel.
    Kernel(u64),
}

struct Process {
    name: Word,
    space: Rc<Space>,
    runtime: Runtime,
}

impl Process {
    fn new(name: Word) -> Process {
        let (space, runtime) = (Rc::default(), Runtime::default());
        Process { name, space, runtime }
    }

    fn forked(&self, pid: u32) -> Process {
        let (name, space) = (self.name, self.space.clone());
        Process { name, space, runtime: self.runtime.forked(pid) }
    }
}

/// Whether a process has no pid in the zone.
pub(crate) fn is_stranger(pid: u32) -> bool {
    pid == 0 || pid == u32::MAX
}

/// All processes.
pub(crate) struct Processes {
    all: HashMap<u32, Process>,
    ended: VecDeque<(u64, u32)>,
    lives: Lives,
    round: u64,
    vdso: Option<ObjectId>,
    cache: Cache,
    /// Every file with code.
    pub objects: Objects,
    /// Every name.
    pub words: Words,
    unnamed: Word,
    carriers: Vec<Word>,
}

impl Processes {
    /// None yet.
    pub(crate) fn new() -> Processes {
        let mut words = Words::default();
        let mut fixed =
            |text| words.put(text).expect("the first names always have room");
        let unnamed = fixed("[unknown process]");
        let carriers = CARRIERS.map(fixed).to_vec();
        let mut objects = Objects::new();
        let vdso = objects.add_vdso();
        Processes {
            all: HashMap::new(),
            ended: VecDeque::new(),
            lives: Lives::default(),
            round: 0,
            vdso,
            cache: Cache::new(),
            objects,
            words,
            unnamed,
            carriers,
        }
    }

    /// Reads what runtimes have named since the last round. To be done
    /// after the records were taken and before they are looked at.
    pub(crate) fn begin_round(&mut self) {
        self.round += 1;
        for process in self.all.values_mut() {
            process.runtime.look(&mut self.words);
        }
    }

    /// Takes in what a record says, unless it is a sample.
    pub(crate) fn note(
        &mut self,
        time: u64,
        record: &Record<'_>,
        files: &ZoneFiles,
    ) {
        self.forget_ended(time, files);
        match record {
            Record::Forked { pid, parent } if pid != parent => {
                let child = if is_stranger(*parent) {
                    // On its way in: it carries the job until its exec.
                    Process::new(self.carriers[0])
                } else {
                    self.meet(*parent, files).forked(*parent)
                };
                self.settle(*pid, files);
                if self.all.len() < PROCESSES_MAX {
                    self.all.insert(*pid, child);
                }
            }
            Record::Named { pid, exec: true, name, .. } => {
                let name = self.words.put(name).unwrap_or(self.unnamed);
                self.settle(*pid, files);
                if self.all.len() < PROCESSES_MAX {
                    self.all.insert(*pid, Process::new(name));
                }
            }
            Record::Mapped(mapped) => {
                let object = self.object(mapped, files);
                self.meet(mapped.pid, files);
                if let Some(process) = self.all.get_mut(&mapped.pid) {
                    Rc::make_mut(&mut process.space).map(
                        mapped,
                        object,
                        &mut self.objects,
                    );
                }
            }
            Record::Exited { pid, tid } if pid == tid => {
                self.settle(*pid, files);
                self.ended.push_back((time, *pid));
            }
            _ => {}
        }
    }

    fn forget_ended(&mut self, now: u64, files: &ZoneFiles) {
        while let Some((time, pid)) = self.ended.front().copied()
            && time + LINGER < now
        {
            self.ended.pop_front();
            self.settle(pid, files);
            self.all.remove(&pid);
        }
    }

    fn settle(&mut self, pid: u32, files: &ZoneFiles) {
        if let Some(process) = self.all.get_mut(&pid) {
            process.runtime.settle(
                pid,
                files,
                &mut self.words,
                &mut self.lives,
            );
        }
    }

    /// Asks for the last time for names that were missing. To be done after
    /// the last round.
    pub(crate) fn settle_all(&mut self, files: &ZoneFiles) {
        let pids: Vec<u32> = self.all.keys().copied().collect();
        for pid in pids {
            self.settle(pid, files);
        }
    }

    /// What became known of an address that had no name in its time.
    pub(crate) fn late_name(&self, life: Life, address: u64) -> Option<&str> {
        let word = self.lives.name(life, address)?;
        Some(self.words.get(word))
    }

    /// A process; looked up in the zone if it is new to us.
    fn meet(&mut self, pid: u32, files: &ZoneFiles) -> &mut Process {
        if !self.all.contains_key(&pid) {
            let process = self.look_up(pid, files);
            self.all.insert(pid, process);
        }
        self.all.get_mut(&pid).expect("it was there or was just put there")
    }

    fn look_up(&mut self, pid: u32, files: &ZoneFiles) -> Process {
        let comm = files.about(pid, "comm").unwrap_or_default();
        let comm = String::from_utf8_lossy(&comm).trim_end().to_owned();
        let name = match comm.as_str() {
            "" => self.unnamed,
            comm => self.words.put(comm).unwrap_or(self.unnamed),
        };
        let mut space = Space::default();
        let text = files.about(pid, "maps").unwrap_or_default();
        for mapped in maps::parse(pid, &text) {
            let object = self.object(&mapped, files);
            space.map(&mapped, object, &mut self.objects);
        }
        Process { space: Rc::new(space), ..Process::new(name) }
    }

    fn object(
        &mut self,
        mapped: &Mapped,
        files: &ZoneFiles,
    ) -> Option<ObjectId> {
        match maps::backing(&mapped.path) {
            maps::Backing::File => self.objects.of(mapped, files),
            maps::Backing::Vdso => self.vdso,
            maps::Backing::Memory => None,
        }
    }

    /// The frames of a sample, outermost first. None for a moment of those
    /// that carry the job.
    pub(crate) fn frames(
        &mut self,
        sample: &Sample<'_>,
        files: &ZoneFiles,
    ) -> Option<Vec<Frame>> {
        let name = self.meet(sample.pid, files).name;
        if self.carriers.contains(&name) {
            return None;
        }
        let mut frames = vec![Frame::Process(name)];
        if let Some(registers) = &sample.registers {
            frames.extend(self.unwound(
                sample.pid,
                registers,
                sample.stack,
                files,
            ));
        }
        let kernel = sample.kernel.iter().rev();
        frames.extend(kernel.map(|address| Frame::Kernel(*address)));
        Some(frames)
    }

    /// The frames of a thread that stands still, outermost first.
    pub(crate) fn now(
        &mut self,
        pid: u32,
        registers: &Registers,
        stack: &[u8],
        files: &ZoneFiles,
    ) -> Vec<Frame> {
        self.meet(pid, files);
        self.unwound(pid, registers, stack, files)
    }

    fn unwound(
        &mut self,
        pid: u32,
        registers: &Registers,
        stack: &[u8],
        files: &ZoneFiles,
    ) -> Vec<Frame> {
        let mut unwound = self.unwind(pid, registers, stack);
        // What is known of made code says how to go on from it.
        let leaves_files = unwound.addresses.iter().any(|address| {
            let process = self.all.get(&pid);
            process.is_some_and(|one| {
                one.space.place(*address, &self.objects) == Place::Made
            })
        });
        if leaves_files && self.find_map(pid, files) {
            unwound = self.unwind(pid, registers, stack);
        }
        let mut frames = Vec::with_capacity(unwound.addresses.len() + 2);
        frames.extend(unwound.cut.then_some(Frame::Cut));
        for address in unwound.addresses.iter().rev() {
            frames.push(self.frame(pid, *address));
        }
        frames
    }

    fn unwind(
        &mut self,
        pid: u32,
        registers: &Registers,
        stack: &[u8],
    ) -> Unwound {
        let Some(process) = self.all.get_mut(&pid) else {
            return Unwound::default();
        };
        Rc::make_mut(&mut process.space).unwind(
            registers,
            stack,
            |address| process.runtime.is_trampoline(address),
            &mut self.cache,
            &mut self.objects,
        )
    }

    fn frame(&mut self, pid: u32, address: u64) -> Frame {
        let Some(process) = self.all.get_mut(&pid) else {
            return Frame::Nameless;
        };
        match process.space.place(address, &self.objects) {
            Place::Stated(object, stated) => Frame::Code(object, stated),
            Place::Opaque(object) => Frame::Opaque(object),
            Place::Made => match process.runtime.name(address) {
                Some(name) => Frame::Made(name),
                None => process
                    .runtime
                    .life(&mut self.lives)
                    .map_or(Frame::Nameless, |life| Frame::Late(life, address)),
            },
        }
    }

    /// Looks for the map of a process that makes code, once a round; says
    /// whether there is news.
    fn find_map(&mut self, pid: u32, files: &ZoneFiles) -> bool {
        let (round, words) = (self.round, &mut self.words);
        self.all.get_mut(&pid).is_some_and(|process| {
            process.runtime.find(pid, round, files, words)
        })
    }

    /// How the zone calls a file.
    pub(crate) fn path(&self, object: ObjectId) -> &Path {
        self.objects.path(object)
    }
}
