//! `events`: what changes, as it changes.
//!
//! There is no service that is told of changes, so this looks at the zones
//! whenever one of their files was touched, and once a second besides, since
//! a zone that dies touches none. A state that lasts shorter than a look is
//! not seen. It ends when its reader does.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde_json::{Map, Value, json};

use super::power::plain;
use super::view::View;
use super::{Call, Done, Failure, Outcome};
use crate::clock;
use crate::names::{ZoneId, has_shape_of_uuid};
use crate::place::Place;
use crate::zone::Zone;

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    full: bool,
    json: bool,
    ready: bool,
    only: Option<String>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Options, Failure> {
        let mut options = Options::default();
        for arg in args {
            match arg.strip_prefix('-') {
                None if has_shape_of_uuid(arg) && options.only.is_none() => {
                    options.only = Some(arg.clone());
                }
                None => {
                    let text = "Invalid or missing UUID for events";
                    return Err(Failure::Usage(Some(text.to_owned())));
                }
                Some(flags) => {
                    for flag in flags.chars() {
                        match flag {
                            'f' => options.full = true,
                            'j' => options.json = true,
                            'r' => options.ready = true,
                            _ => return Err(Failure::Usage(None)),
                        }
                    }
                }
            }
        }
        Ok(options)
    }
}

/// All zones at one moment, by uuid.
type World = BTreeMap<String, Map<String, Value>>;

/// What happened to one zone.
#[derive(Debug, PartialEq)]
enum Event {
    Create { id: String, vm: Map<String, Value> },
    Delete { id: String, vm: Map<String, Value> },
    Modify { id: String, vm: Map<String, Value>, changes: Vec<Change> },
}

/// One property that changed.
#[derive(Debug, PartialEq)]
struct Change {
    path: Vec<String>,
    old: Option<Value>,
    new: Option<Value>,
}

impl Change {
    fn action(&self) -> &'static str {
        match (&self.old, &self.new) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        }
    }

    fn as_json(&self) -> Value {
        let mut object = json!({
            "prettyPath": self.path.join("."),
            "path": self.path,
            "action": self.action(),
        });
        let sides = [("oldValue", &self.old), ("newValue", &self.new)];
        for (name, value) in sides {
            if let Some(value) = value {
                object[name] = value.clone();
            }
        }
        object
    }

    fn as_text(&self) -> String {
        let sides: Vec<String> = [&self.old, &self.new]
            .into_iter()
            .flatten()
            .map(Value::to_string)
            .collect();
        let path = self.path.join(".");
        format!("{path} {} :: {}", self.action(), sides.join(" -> "))
    }
}

/// What differs between two objects, property by property. Lists are
/// compared as a whole; what is only ours (`ntrace`) is left out.
fn changes(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<Change> {
    fn walk(
        path: &[String],
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        found: &mut Vec<Change>,
    ) {
        let only_new = new.keys().filter(|key| !old.contains_key(*key));
        for key in old.keys().chain(only_new) {
            if path.is_empty() && key == "ntrace" {
                continue;
            }
            let path = [path, std::slice::from_ref(key)].concat();
            match (old.get(key), new.get(key)) {
                (Some(Value::Object(a)), Some(Value::Object(b))) => {
                    walk(&path, a, b, found);
                }
                (a, b) if a != b => found.push(Change {
                    path,
                    old: a.cloned(),
                    new: b.cloned(),
                }),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(&[], old, new, &mut found);
    found
}

fn events(old: &World, new: &World) -> Vec<Event> {
    let mut found = Vec::new();
    for (id, vm) in old.iter().filter(|(id, _)| !new.contains_key(*id)) {
        found.push(Event::Delete { id: id.clone(), vm: vm.clone() });
    }
    for (id, vm) in new {
        let (id, vm) = (id.clone(), vm.clone());
        let Some(before) = old.get(&id) else {
            found.push(Event::Create { id, vm });
            continue;
        };
        let changes = changes(before, &vm);
        if !changes.is_empty() {
            found.push(Event::Modify { id, vm, changes });
        }
    }
    found
}

impl Event {
    fn as_json(&self, date: &str) -> Value {
        let (kind, id, vm) = match self {
            Event::Create { id, vm } => ("create", id, vm),
            Event::Delete { id, vm } => ("delete", id, vm),
            Event::Modify { id, vm, .. } => ("modify", id, vm),
        };
        let mut object = json!({
            "type": kind,
            "date": date,
            "zonename": id,
            "uuid": uuid::Uuid::new_v4().to_string(),
            "vm": vm,
        });
        if let Event::Modify { changes, .. } = self {
            object["changes"] = changes.iter().map(Change::as_json).collect();
        }
        object
    }

    /// One line for each changed property.
    fn as_text(&self, date: &str, full: bool) -> String {
        let (id, vm) = match self {
            Event::Create { id, vm }
            | Event::Delete { id, vm }
            | Event::Modify { id, vm, .. } => (id, vm),
        };
        let id = if full { id.as_str() } else { id.get(..8).unwrap_or(id) };
        let start = format!("[{}] {id} {}", moment(date, full), alias(vm));
        match self {
            Event::Create { .. } => format!("{start} create\n"),
            Event::Delete { .. } => format!("{start} delete\n"),
            Event::Modify { changes, .. } => changes
                .iter()
                .map(|one| format!("{start} modify: {}\n", one.as_text()))
                .collect(),
        }
    }
}

fn moment(date: &str, full: bool) -> &str {
    match date.split_once('T') {
        Some((_, time)) if !full => time,
        _ => date,
    }
}

fn alias(vm: &Map<String, Value>) -> String {
    let alias = vm.get("alias").and_then(Value::as_str).unwrap_or("");
    match alias.chars().count() {
        0 => "-".to_owned(),
        1..=30 => alias.to_owned(),
        _ => alias.chars().take(27).chain("...".chars()).collect(),
    }
}

/// Wakes when a file of a zone is touched.
struct Watch {
    notes: Option<OwnedFd>,
}

impl Watch {
    /// Without inotify the look once a second remains.
    fn new() -> Watch {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        Watch { notes: inotify::init(flags).ok() }
    }

    /// Watches what is there now; what is watched already stays so.
    fn cover(&self, place: &Place, world: &World) {
        let Some(notes) = &self.notes else { return };
        let mask = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MODIFY;
        let _ = inotify::add_watch(notes, place.zones(), mask);
        for id in world.keys().filter_map(|id| ZoneId::parse(id).ok()) {
            let _ = inotify::add_watch(notes, place.zone(&id), mask);
        }
    }

    /// Waits for a touch, for a second at most; false once nobody reads our
    /// output any more.
    fn wait(&self) -> bool {
        let stdout = std::io::stdout();
        let mut polls =
            vec![PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty())];
        if let Some(notes) = &self.notes {
            polls.push(PollFd::new(notes, PollFlags::IN));
        }
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut polls, Some(&second));
        let left = PollFlags::ERR | PollFlags::NVAL;
        let is_read = !polls[0].revents().intersects(left);
        let mut piece = [0_u8; 4096];
        if let Some(notes) = &self.notes {
            while matches!(rustix::io::read(notes, &mut piece), Ok(1..)) {}
        }
        is_read
    }
}

fn look(place: &Place, only: Option<&str>) -> Result<World, Failure> {
    let mut world = World::new();
    for zone in Zone::all(place).map_err(plain)? {
        if only.is_some_and(|only| only != zone.id.as_str()) {
            continue;
        }
        // One that is deleted while we look is gone.
        if let Ok(view) = View::of(&zone) {
            world.insert(zone.id.to_string(), view.object);
        }
    }
    Ok(world)
}

/// `vmadm events`.
pub(super) fn run(call: &Call<'_>) -> Outcome {
    let options = Options::parse(call.args)?;
    let mut out = std::io::stdout();
    let mut say = |text: String| {
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
    };
    let watch = Watch::new();
    watch.cover(&call.place, &World::new());
    let only = options.only.as_deref();
    let mut world = look(&call.place, only)?;
    // Once more: a change between the look and the watch shows in the next.
    watch.cover(&call.place, &world);
    let mut date = clock::iso(clock::now_ms());
    if options.ready {
        let text = if options.json {
            let uuid = uuid::Uuid::new_v4().to_string();
            let ready = json!({
                "type": "ready", "date": date, "uuid": uuid, "vms": world,
            });
            format!("{ready}\n")
        } else {
            format!("[{}] ready\n", moment(&date, options.full))
        };
        if !say(text) {
            return Ok(Done::default());
        }
    }
    loop {
        let now = look(&call.place, only)?;
        watch.cover(&call.place, &now);
        date = clock::iso(clock::now_ms());
        for event in events(&world, &now) {
            let text = match options.json {
                true => format!("{}\n", event.as_json(&date)),
                false => event.as_text(&date, options.full),
            };
            if !say(text) {
                return Ok(Done::default());
            }
        }
        world = now;
        if !watch.wait() {
            return Ok(Done::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(vms: &Value) -> World {
        let all = vms.as_object().unwrap();
        let vm = |(id, vm): (&String, &Value)| {
            (id.clone(), vm.as_object().unwrap().clone())
        };
        all.iter().map(vm).collect()
    }

    const ID: &str = "c0ffee00-1111-4222-8333-444455556666";
    const DATE: &str = "2026-01-02T09:38:25.646Z";

    #[test]
    fn a_change_is_told_as_the_original_tells_it() {
        let old = world(&json!({ID: {"alias": "worker0", "state": "running",
            "tags": {"a": "x"}, "pid": 7, "ntrace": 1}}));
        let new = world(&json!({ID: {"alias": "worker0", "state": "stopped",
            "tags": {"b": 1}, "ntrace": 2}}));
        let found = events(&old, &new);
        let text: Vec<_> =
            found.iter().map(|one| one.as_text(DATE, false)).collect();
        assert_eq!(
            text.concat(),
            "[09:38:25.646Z] c0ffee00 worker0 modify: pid removed :: 7\n\
             [09:38:25.646Z] c0ffee00 worker0 modify: state changed :: \
             \"running\" -> \"stopped\"\n\
             [09:38:25.646Z] c0ffee00 worker0 modify: tags.a removed :: \
             \"x\"\n\
             [09:38:25.646Z] c0ffee00 worker0 modify: tags.b added :: 1\n"
        );
        let object = found[0].as_json(DATE);
        assert_eq!(
            object["changes"][1],
            json!({
                "prettyPath": "state", "path": ["state"],
                "action": "changed",
                "oldValue": "running", "newValue": "stopped",
            })
        );
        assert_eq!(object["vm"]["state"], "stopped");
        assert_eq!(events(&new, &new), []);
    }

    #[test]
    fn zones_come_and_go() {
        let (none, one) = (World::new(), world(&json!({ID: {}})));
        let text = |found: Vec<Event>| found[0].as_text(DATE, true);
        let start = format!("[{DATE}] {ID} -");
        assert_eq!(text(events(&none, &one)), format!("{start} create\n"));
        assert_eq!(text(events(&one, &none)), format!("{start} delete\n"));
        let long = json!({"alias": "a".repeat(31)});
        let cut = format!("{}...", "a".repeat(27));
        assert_eq!(alias(long.as_object().unwrap()), cut);
    }

    #[test]
    fn options_may_be_joined() {
        let of = |line: &str| {
            let args: Vec<String> =
                line.split(' ').map(str::to_owned).collect();
            Options::parse(&args).ok()
        };
        let found = of(&format!("-jr {ID}")).unwrap();
        assert!(found.json && found.ready && !found.full);
        assert_eq!(found.only.as_deref(), Some(ID));
        assert_eq!(of("-x"), None);
        assert_eq!(of("notauuid"), None);
    }
}
