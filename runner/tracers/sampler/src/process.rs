//! The zone's processes as the records tell of them: names, code, and how a
//! sample of one becomes a stack of frames.
//!
//! Pids here are the zone's. What happened before sampling began is read
//! from the zone's /proc once, when a process is first met.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::arch::Registers;
use crate::jit::{GrowingMap, Made};
use crate::maps;
use crate::objects::{ObjectId, Objects};
use crate::perf::record::{Mapped, Record, Sample};
use crate::space::{Cache, Place, Space};
use crate::words::{Word, Words};
use crate::zone::ZoneFiles;

/// How long an ended process is remembered: records of other processors may
/// come later than its end. Nanoseconds.
const LINGER: u64 = 2_000_000_000;

/// Processes remembered at most.
const PROCESSES_MAX: usize = 20_000;

/// Names of the programs that carry the job: not part of it.
const CARRIERS: [&str; 3] = ["zone-job", "zlogin", "ntrace-runner"];

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
    /// Code that nobody named.
    Nameless,
    /// The kernel.
    Kernel(u64),
}

#[derive(Clone)]
struct Process {
    name: Word,
    space: Rc<Space>,
    made: Made,
}

/// Whether a process has no pid in the zone.
pub(crate) fn is_stranger(pid: u32) -> bool {
    pid == 0 || pid == u32::MAX
}

/// All processes.
pub(crate) struct Processes {
    all: HashMap<u32, Process>,
    ended: VecDeque<(u64, u32)>,
    growing: HashMap<u32, GrowingMap>,
    /// Those whose map was looked for in vain in this round.
    mapless: HashSet<u32>,
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
            growing: HashMap::new(),
            mapless: HashSet::new(),
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
        self.mapless.clear();
        for (pid, map) in &mut self.growing {
            if let Some(process) = self.all.get_mut(pid) {
                // A map that cannot be read any more says nothing new.
                let _ = map.look(&mut process.made, &mut self.words);
            }
        }
    }

    /// Takes in what a record says, unless it is a sample.
    pub(crate) fn note(
        &mut self,
        time: u64,
        record: &Record<'_>,
        files: &ZoneFiles,
    ) {
        self.forget_ended(time);
        match record {
            Record::Forked { pid, parent } if pid != parent => {
                let child = if is_stranger(*parent) {
                    // On its way in: it carries the job until its exec.
                    Process {
                        name: self.carriers[0],
                        space: Rc::default(),
                        made: Made::default(),
                    }
                } else {
                    self.meet(*parent, files).clone()
                };
                self.growing.remove(pid);
                if self.all.len() < PROCESSES_MAX {
                    self.all.insert(*pid, child);
                }
            }
            Record::Named { pid, exec: true, name, .. } => {
                let name = self.words.put(name).unwrap_or(self.unnamed);
                self.growing.remove(pid);
                if self.all.len() < PROCESSES_MAX {
                    let fresh = Process {
                        name,
                        space: Rc::default(),
                        made: Made::default(),
                    };
                    self.all.insert(*pid, fresh);
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
                self.ended.push_back((time, *pid));
            }
            _ => {}
        }
    }

    fn forget_ended(&mut self, now: u64) {
        while let Some((time, pid)) = self.ended.front().copied()
            && time + LINGER < now
        {
            self.ended.pop_front();
            self.all.remove(&pid);
            self.growing.remove(&pid);
        }
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
        Process { name, space: Rc::new(space), made: Made::default() }
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
        let Some(process) = self.all.get_mut(&pid) else { return Vec::new() };
        let unwound = Rc::make_mut(&mut process.space).unwind(
            registers,
            stack,
            &mut self.cache,
            &mut self.objects,
        );
        let mut frames = Vec::with_capacity(unwound.addresses.len() + 2);
        frames.extend(unwound.cut.then_some(Frame::Cut));
        for address in unwound.addresses.iter().rev() {
            frames.push(self.frame(pid, *address, files));
        }
        frames
    }

    fn frame(&mut self, pid: u32, address: u64, files: &ZoneFiles) -> Frame {
        let Some(process) = self.all.get(&pid) else { return Frame::Nameless };
        match process.space.place(address, &self.objects) {
            Place::Stated(object, stated) => Frame::Code(object, stated),
            Place::Opaque(object) => Frame::Opaque(object),
            Place::Made => {
                self.find_map(pid, files);
                let made = self.all.get(&pid).map(|process| &process.made);
                made.and_then(|made| made.name(address))
                    .map_or(Frame::Nameless, Frame::Made)
            }
        }
    }

    /// Looks for the map of a process that makes code, once a round.
    fn find_map(&mut self, pid: u32, files: &ZoneFiles) {
        if self.growing.contains_key(&pid) || !self.mapless.insert(pid) {
            return;
        }
        let inner = files.innermost_pid(pid).unwrap_or(pid);
        let path = PathBuf::from(format!("/tmp/perf-{inner}.map"));
        let Ok(file) = files.open_as(pid, &path).or_else(|_| files.open(&path))
        else {
            return;
        };
        let mut map = GrowingMap::new(file);
        if let Some(process) = self.all.get_mut(&pid) {
            let _ = map.look(&mut process.made, &mut self.words);
            self.growing.insert(pid, map);
        }
    }

    /// How the zone calls a file.
    pub(crate) fn path(&self, object: ObjectId) -> &Path {
        self.objects.path(object)
    }
}
