//! What the runtime in a process says of the code that it makes: its own
//! map, and that of the process it was forked from.
//!
//! Some runtimes write their map when they end: a frame without a name then
//! remembers of which life of which process it is, and is named at the end.

use std::path::PathBuf;

use crate::jit::{GrowingMap, Made};
use crate::words::{Word, Words};
use crate::zone::ZoneFiles;

/// Lives that are remembered for names that come late.
const LIVES_MAX: usize = 20_000;

/// A process from its begin, or its last exec, to its end or its next exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Life(u32);

/// Names of made code.
#[derive(Debug, Clone, Default)]
struct Known {
    /// What the process named itself.
    own: Made,
    /// What was there when it was forked.
    inherited: Made,
}

impl Known {
    fn name(&self, address: u64) -> Option<Word> {
        self.own.name(address).or_else(|| self.inherited.name(address))
    }
}

/// What became known too late for the samples.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    all: Vec<Known>,
}

impl Lives {
    /// The name of an address in a life, if anybody ever said it.
    pub(crate) fn name(&self, life: Life, address: u64) -> Option<Word> {
        self.all.get(life.0 as usize)?.name(address)
    }

    fn begin(&mut self) -> Option<Life> {
        if self.all.len() >= LIVES_MAX {
            return None;
        }
        self.all.push(Known::default());
        Some(Life(self.all.len() as u32 - 1))
    }
}

/// The runtime of one process.
#[derive(Debug, Default)]
pub(crate) struct Runtime {
    known: Known,
    map: Option<GrowingMap>,
    /// In which round its map was looked for in vain.
    missed: Option<u64>,
    /// Its pid as it knows it itself, asked while it lived.
    inner: Option<u32>,
    /// The names of the process it was forked from, which may have written
    /// a map that nobody wanted to read yet.
    parents: Vec<u32>,
    life: Option<Life>,
}

/// Generations of forks that are gone through for a map.
const PARENTS_MAX: usize = 4;

impl Runtime {
    /// That of a child which was just forked from `parent`.
    pub(crate) fn forked(&self, parent: u32) -> Runtime {
        let mut inherited = self.known.inherited.clone();
        inherited.overlay(&self.known.own);
        let parents = match inherited.is_empty() {
            true => {
                let named = self.inner.unwrap_or(parent);
                let older = self.parents.iter().copied();
                std::iter::once(named).chain(older).take(PARENTS_MAX).collect()
            }
            false => Vec::new(),
        };
        let known = Known { own: Made::default(), inherited };
        Runtime { known, parents, ..Runtime::default() }
    }

    /// Takes in what was written since the last look.
    pub(crate) fn look(&mut self, words: &mut Words) {
        if let Some(map) = &mut self.map {
            // A map that cannot be read any more says nothing new.
            let _ = map.look(&mut self.known.own, words);
        }
    }

    /// The name of an address.
    pub(crate) fn name(&self, address: u64) -> Option<Word> {
        self.known.name(address)
    }

    /// Whether there is only a way into an interpreter.
    pub(crate) fn is_trampoline(&self, address: u64) -> bool {
        self.known.own.is_trampoline(address)
            || self.known.inherited.is_trampoline(address)
    }

    /// Looks for its map, once a round; says whether there is news.
    pub(crate) fn find(
        &mut self,
        pid: u32,
        round: u64,
        files: &ZoneFiles,
        words: &mut Words,
    ) -> bool {
        if self.map.is_some() || self.missed == Some(round) {
            return false;
        }
        self.missed = Some(round);
        let inner = files.innermost_pid(pid).or(self.inner);
        self.inner = inner;
        let mut news = false;
        for parent in std::mem::take(&mut self.parents).into_iter().rev() {
            if let Some(mut map) = open(pid, parent, files) {
                let mut made = Made::default();
                let _ = map.look(&mut made, words);
                self.known.inherited.overlay(&made);
                news = true;
            }
        }
        if let Some(map) = open(pid, inner.unwrap_or(pid), files) {
            self.map = Some(map);
            self.look(words);
            news = true;
        }
        news
    }

    /// The life for a frame that has no name yet; none where there is a map,
    /// which says all that it is going to say in time.
    pub(crate) fn life(&mut self, lives: &mut Lives) -> Option<Life> {
        if self.life.is_none() && self.map.is_none() {
            self.life = lives.begin();
        }
        self.life
    }

    /// Remembers what is known for the frames that wait for it.
    pub(crate) fn settle(
        &mut self,
        pid: u32,
        files: &ZoneFiles,
        words: &mut Words,
        lives: &mut Lives,
    ) {
        let Some(life) = self.life else { return };
        self.missed = None;
        self.find(pid, 0, files, words);
        self.look(words);
        if let Some(known) = lives.all.get_mut(life.0 as usize) {
            known.clone_from(&self.known);
        }
    }
}

/// Opens the map that a process with that pid writes, as another one sees
/// it, or all of the zone.
fn open(seer: u32, writer: u32, files: &ZoneFiles) -> Option<GrowingMap> {
    let path = PathBuf::from(format!("/tmp/perf-{writer}.map"));
    files
        .open_as(seer, &path)
        .or_else(|_| files.open(&path))
        .ok()
        .map(GrowingMap::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The map of a process that cannot be: gone with this value.
    struct MapOf(u32);

    impl MapOf {
        fn new(pid: u32, text: &str) -> MapOf {
            std::fs::write(MapOf::path(pid), text).unwrap();
            MapOf(pid)
        }

        fn path(pid: u32) -> String {
            format!("/tmp/perf-{pid}.map")
        }
    }

    impl Drop for MapOf {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(MapOf::path(self.0));
        }
    }

    fn here() -> ZoneFiles {
        ZoneFiles::hold(std::process::id() as i32).unwrap()
    }

    /// Pids above all that the kernel gives, of one test alone.
    fn pids(of_test: u32) -> (u32, u32) {
        let first = 1_000_000_000 + 8 * std::process::id() + 2 * of_test;
        (first, first + 1)
    }

    #[test]
    fn a_child_runs_what_its_parent_named_and_what_it_named_itself() {
        let (files, mut words) = (here(), Words::default());
        let (parent, child) = pids(0);
        let _parent = MapOf::new(parent, "1000 10 py::old:x\n2000 10 both\n");
        // Forked before anybody wanted to know a name of the parent.
        let first = Runtime::default();
        let mut second = first.forked(parent);
        assert!(second.find(child, 1, &files, &mut words));
        let text = |word: Option<Word>, words: &Words| {
            word.map(|word| words.get(word).to_owned())
        };
        let old = Some("py::old:x".to_owned());
        assert_eq!(text(second.name(0x1000), &words), old);
        assert!(second.is_trampoline(0x1001) && !second.is_trampoline(0x2001));
        let _child = MapOf::new(child, "2000 10 own\n");
        assert!(!second.find(child, 1, &files, &mut words), "once a round");
        assert!(second.find(child, 2, &files, &mut words));
        let own = Some("own".to_owned());
        assert_eq!(text(second.name(0x2000), &words), own);
        assert_eq!(text(second.name(0x1000), &words), old);
        // And so on for a child of the child.
        let third = second.forked(child);
        assert_eq!(text(third.name(0x2000), &words), own);
        assert_eq!(text(third.name(0x1000), &words), old);
    }

    #[test]
    fn a_name_that_comes_last_is_known_of_its_life_alone() {
        let (files, mut words) = (here(), Words::default());
        let (pid, _) = pids(1);
        let mut lives = Lives::default();
        let mut runtime = Runtime::default();
        assert!(!runtime.find(pid, 1, &files, &mut words));
        let life = runtime.life(&mut lives).unwrap();
        let other = Runtime::default().life(&mut lives).unwrap();
        assert_eq!(lives.name(life, 0x1000), None);
        let _map = MapOf::new(pid, "1000 10 said at the end\n");
        runtime.settle(pid, &files, &mut words, &mut lives);
        let found = lives.name(life, 0x1000);
        assert_eq!(found.map(|word| words.get(word)), Some("said at the end"));
        assert_eq!(lives.name(other, 0x1000), None);
        // With a map from the start, what it does not say has no name.
        let mut early = Runtime::default();
        assert!(early.find(pid, 1, &files, &mut words));
        assert_eq!(early.life(&mut lives), None);
    }
}
