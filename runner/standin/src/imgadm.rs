//! The program `imgadm`: images that zones are made from.
//!
//! An image is a tar of a whole root, as debootstrap makes it, unpacked once
//! with its owners shifted into the range of ids that zones have (or all of
//! one owner, for an ordinary user). It is never changed afterwards.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::clock;
use crate::names::ZoneId;
use crate::place::{Owner, Place, make_dir};
use crate::spec::HOST_IMAGE;
use crate::trash;
use crate::zone::Zone;

const USAGE: &str = "usage: imgadm install -f FILE [-m MANIFEST]
       imgadm list [-j]
       imgadm get UUID
       imgadm delete UUID";

/// An image that could not be installed or removed.
#[derive(Debug, thiserror::Error)]
enum ImageError {
    #[error("cannot {doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is no manifest: {why}", path.display())]
    Manifest { path: PathBuf, why: String },
    #[error("image {0} is already installed")]
    Exists(ZoneId),
    #[error("image {0:?} is not installed")]
    Missing(String),
    #[error("image {image} is used by VM {zone}")]
    Used { image: ZoneId, zone: ZoneId },
    #[error("{0} leaves the image")]
    Leaves(String),
    #[error("cannot list VMs: {0}")]
    Zones(#[from] crate::zone::ZoneError),
}

fn failed(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::File { doing, path, source }
}

/// Runs the program; gives its exit status.
pub(crate) fn main(args: &[String]) -> u8 {
    let place = match Place::open() {
        Ok(place) => place,
        Err(error) => {
            eprintln!("imgadm: cannot open the place for zones: {error}");
            return 1;
        }
    };
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["install", "-f", file] => install(&place, Path::new(file), None),
        ["install", "-f", file, "-m", manifest]
        | ["install", "-m", manifest, "-f", file] => {
            install(&place, Path::new(file), Some(Path::new(manifest)))
        }
        ["list"] => list(&place, false),
        ["list", "-j"] => list(&place, true),
        ["get", uuid] => get(&place, uuid),
        ["delete", uuid] => delete(&place, uuid),
        _ => {
            eprintln!("{USAGE}");
            return 2;
        }
    };
    match done {
        Ok(text) => {
            let _ = io::stdout().write_all(text.as_bytes());
            0
        }
        Err(error) => {
            eprintln!("imgadm: {error}");
            1
        }
    }
}

fn read_manifest(path: &Path) -> Result<Map<String, Value>, ImageError> {
    let text = fs::read(path).map_err(failed("read", path))?;
    let bad = |why: String| ImageError::Manifest { path: path.to_owned(), why };
    match serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))? {
        Value::Object(manifest) => Ok(manifest),
        _ => Err(bad("not an object".to_owned())),
    }
}

/// A uuid that only this content has.
fn uuid_of(file: &mut File) -> io::Result<ZoneId> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    let uuid = uuid::Builder::from_custom_bytes(bytes).into_uuid();
    ZoneId::parse(&uuid.to_string()).map_err(io::Error::other)
}

fn install(
    place: &Place,
    file: &Path,
    manifest: Option<&Path>,
) -> Result<String, ImageError> {
    let mut manifest = match manifest {
        Some(path) => read_manifest(path)?,
        None => Map::new(),
    };
    let mut tar = File::open(file).map_err(failed("open", file))?;
    let id = match manifest.get("uuid").and_then(Value::as_str) {
        Some(text) => {
            ZoneId::parse(text).map_err(|error| ImageError::Manifest {
                path: file.to_owned(),
                why: error.to_string(),
            })?
        }
        None => uuid_of(&mut tar).map_err(failed("read", file))?,
    };
    let done = place.images().join(id.as_str());
    if id.as_str() == HOST_IMAGE || done.exists() {
        return Err(ImageError::Exists(id));
    }
    let draft = place.images().join(format!(".{id}.{}", std::process::id()));
    let skipped = match fill(place, &draft, tar, file) {
        Ok(skipped) => skipped,
        Err(error) => {
            let _ = trash::discard(place, &draft);
            trash::purge_behind(place);
            return Err(error);
        }
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    manifest.entry("name").or_insert_with(|| name.into());
    for (key, value) in [
        ("uuid", json!(id)),
        ("installed_at", json!(clock::iso(clock::now_ms()))),
        ("skipped_devices", json!(skipped)),
    ] {
        manifest.insert(key.to_owned(), value);
    }
    let text = format!("{:#}\n", Value::Object(manifest));
    fs::write(draft.join("manifest.json"), text)
        .map_err(failed("write", &draft))?;
    let dir = File::open(&draft).map_err(failed("open", &draft))?;
    rustix::fs::syncfs(dir)
        .map_err(|error| failed("sync", &draft)(error.into()))?;
    fs::rename(&draft, &done).map_err(failed("put in place", &done))?;
    let place = place.images();
    Ok(format!("Installed image {id} to \"{}\".\n", place.display()))
}

fn fill(
    place: &Place,
    draft: &Path,
    mut tar: File,
    file: &Path,
) -> Result<u64, ImageError> {
    let root = draft.join("root");
    make_dir(&root).map_err(failed("make", &root))?;
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&root, open).map_err(failed("open up", &root))?;
    let mut magic = [0_u8; 2];
    tar.rewind()
        .and_then(|()| tar.read(&mut magic))
        .and_then(|_| tar.seek(SeekFrom::Start(0)))
        .map_err(failed("read", file))?;
    let skipped = if magic == [0x1f, 0x8b] {
        let mut gzip = gunzip(tar).map_err(failed("run gzip on", file))?;
        let output = gzip.stdout.take();
        let skipped =
            output.map_or(Ok(0), |output| unpack(place, &root, output));
        let ended = gzip.wait().map_err(failed("run gzip on", file))?;
        if !ended.success() {
            let why = io::Error::other(format!("gzip: {ended}"));
            return Err(failed("unpack", file)(why));
        }
        skipped?
    } else {
        unpack(place, &root, tar)?
    };
    furnish(&root, place.owner).map_err(failed("furnish", &root))?;
    Ok(skipped)
}

fn gunzip(tar: File) -> io::Result<Child> {
    let found = ["/usr/bin/gzip", "/bin/gzip"];
    let program = found.iter().find(|path| Path::new(path).exists());
    Command::new(program.unwrap_or(&found[0]))
        .arg("-dc")
        .env_clear()
        .current_dir("/")
        .stdin(tar)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
}

/// Unpacks; gives how many device nodes were left out.
fn unpack(
    place: &Place,
    root: &Path,
    input: impl Read,
) -> Result<u64, ImageError> {
    let mut archive = tar::Archive::new(input);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(false);
    archive.set_preserve_mtime(true);
    let mut skipped = 0;
    let mut directories = Vec::new();
    let mut parents = BTreeSet::new();
    let bad = || failed("unpack into", root);
    for entry in archive.entries().map_err(bad())? {
        let mut entry = entry.map_err(bad())?;
        let kind = entry.header().entry_type();
        if let Ok(path) = entry.path() {
            let above = path.ancestors().skip(1).map(Path::to_owned);
            parents.extend(above.filter(|path| is_plain(path)));
        }
        if kind.is_block_special() || kind.is_character_special() {
            skipped += 1;
        } else if kind.is_dir() {
            directories.push(entry);
        } else {
            put(place, root, &mut entry)?;
        }
    }
    // What no entry of its own says belongs to the zone's root.
    if place.owner.is_root() {
        let (uid, gid) = place.owner.host_ids(0, 0);
        for parent in &parents {
            let path = root.join(parent);
            let real = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
            if real && path.starts_with(root) {
                lchown(&path, Some(uid), Some(gid))
                    .map_err(failed("own", &path))?;
            }
        }
    }
    // Modes of directories come last: one may forbid writing into it.
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut entry in directories {
        put(place, root, &mut entry)?;
    }
    Ok(skipped)
}

/// Whether a path stays below where it starts.
fn is_plain(path: &Path) -> bool {
    let mut parts = path.components();
    parts.all(|part| {
        matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    })
}

fn put(
    place: &Place,
    root: &Path,
    entry: &mut tar::Entry<'_, impl Read>,
) -> Result<(), ImageError> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let inside = entry.unpack_in(root).map_err(failed("unpack into", root))?;
    if !inside {
        return Err(ImageError::Leaves(name.escape_default().to_string()));
    }
    let kind = entry.header().entry_type();
    if !place.owner.is_root() || kind.is_hard_link() {
        return Ok(());
    }
    let path = entry.path().map_err(failed("unpack into", root))?;
    let path = root.join(path.strip_prefix("/").unwrap_or(&path));
    let id = |value: io::Result<u64>| value.unwrap_or(0).min(65_535) as u32;
    let (uid, gid) = place
        .owner
        .host_ids(id(entry.header().uid()), id(entry.header().gid()));
    lchown(&path, Some(uid), Some(gid)).map_err(failed("own", &path))?;
    if !kind.is_symlink() {
        // A change of owner took the set-id bits away.
        let mode = entry.header().mode().unwrap_or(0o644) & 0o7777;
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(&path, mode).map_err(failed("own", &path))?;
    }
    Ok(())
}

/// Adds what a zone needs and a bare root may lack.
fn furnish(root: &Path, owner: Owner) -> io::Result<()> {
    let own = |path: &Path, id: u32| {
        let (uid, gid) = owner.host_ids(id, id);
        lchown(path, Some(uid), Some(gid))
    };
    own(root, 0)?;
    for (name, id) in [
        ("dev", 0),
        ("etc", 0),
        ("home", 0),
        ("home/job", 1000),
        ("native", 0),
        ("proc", 0),
        ("root", 0),
        ("run", 0),
        ("sys", 0),
        ("tmp", 0),
    ] {
        let path = root.join(name);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                let why = format!("/{name} is no directory");
                return Err(io::Error::other(why));
            }
            Err(_) => {
                fs::create_dir(&path)?;
                own(&path, id)?;
            }
        }
    }
    for (name, line) in [
        ("passwd", "job:x:1000:1000:job:/home/job:/bin/sh\n"),
        ("group", "job:x:1000:\n"),
    ] {
        let path = root.join("etc").join(name);
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) {
            continue;
        }
        let mut text = fs::read_to_string(&path).unwrap_or_default();
        if !text.lines().any(|line| line.starts_with("job:")) {
            text.push_str(line);
            fs::write(&path, text)?;
            own(&path, 0)?;
        }
    }
    let resolv = root.join("etc/resolv.conf");
    let _ = fs::remove_file(&resolv);
    symlink("/run/resolv.conf", &resolv)
}

fn manifests(place: &Place) -> Vec<Map<String, Value>> {
    let mut found = vec![Map::from_iter([
        ("uuid".to_owned(), json!(HOST_IMAGE)),
        ("name".to_owned(), json!("host")),
        ("description".to_owned(), json!("the host's own system directories")),
    ])];
    for entry in fs::read_dir(place.images()).into_iter().flatten().flatten() {
        found.extend(read_manifest(&entry.path().join("manifest.json")));
    }
    found.sort_by_key(|one| one.get("name").map(ToString::to_string));
    found
}

fn list(place: &Place, as_json: bool) -> Result<String, ImageError> {
    let all = manifests(place);
    if as_json {
        let all = all.into_iter().map(Value::Object).collect();
        return Ok(format!("{:#}\n", Value::Array(all)));
    }
    let text = |one: &Map<String, Value>, key: &str| {
        let text = one.get(key).and_then(Value::as_str).unwrap_or("-");
        text.chars().filter(|c| !c.is_control()).collect::<String>()
    };
    let mut lines = format!("{:<36}  {:<24}  VERSION\n", "UUID", "NAME");
    for one in &all {
        lines += &format!(
            "{:<36}  {:<24}  {}\n",
            text(one, "uuid"),
            text(one, "name"),
            text(one, "version")
        );
    }
    Ok(lines)
}

fn get(place: &Place, uuid: &str) -> Result<String, ImageError> {
    let found = manifests(place)
        .into_iter()
        .find(|one| one.get("uuid").and_then(Value::as_str) == Some(uuid));
    match found {
        Some(one) => Ok(format!("{:#}\n", Value::Object(one))),
        None => Err(ImageError::Missing(uuid.to_owned())),
    }
}

fn delete(place: &Place, uuid: &str) -> Result<String, ImageError> {
    let missing = || ImageError::Missing(uuid.to_owned());
    let id = ZoneId::parse(uuid).map_err(|_| missing())?;
    let dir = place.images().join(id.as_str());
    if !dir.is_dir() {
        return Err(missing());
    }
    for zone in Zone::all(place)? {
        let manifest = zone.manifest()?;
        if manifest.get("image_uuid").and_then(Value::as_str) == Some(uuid) {
            return Err(ImageError::Used { image: id, zone: zone.id });
        }
    }
    trash::discard(place, &dir).map_err(failed("discard", &dir))?;
    trash::purge_behind(place);
    Ok(format!("Deleted image {id}.\n"))
}
