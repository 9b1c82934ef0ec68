//! What a manifest asks for, in types: limits, network, file systems.
//!
//! The manifest on disk was checked when it came in (`payload`); here
//! missing values get vmadm's defaults.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::cgroup::Limits;

/// Image of the host's own system directories.
pub const HOST_IMAGE: &str = "6e747261-6365-4000-8000-000000000001";

const MIB: u64 = 1 << 20;

/// A directory of the host shown in a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lofs {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the zone.
    pub target: PathBuf,
    /// Whether it may be written.
    pub read_only: bool,
}

/// Which network a zone has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// That of the host.
    Host,
    /// Its own, with nothing but loopback.
    Loopback,
}

/// Where the writable layer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upper {
    /// In the generation's directory.
    Disk,
    /// In memory; gone when the zone stops.
    Tmpfs,
}

/// The typed manifest.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Limits held by cgroups.
    pub limits: Limits,
    /// Bytes of the writable layer, if limited.
    pub quota: Option<u64>,
    /// Bytes of `/tmp`.
    pub tmpfs: u64,
    /// Name of the machine inside.
    pub hostname: String,
    /// Which network.
    pub network: Network,
    /// Directories of the host.
    pub filesystems: Vec<Lofs>,
    /// Whether the system directories are the host's.
    pub host_image: bool,
    /// The directory, below that of images, of the lowest layer.
    pub base: String,
    /// Where the writable layer is kept.
    pub upper: Upper,
}

fn number(manifest: &Map<String, Value>, name: &str) -> Option<u64> {
    manifest.get(name).and_then(Value::as_u64)
}

fn text<'a>(manifest: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    manifest.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn filesystems(manifest: &Map<String, Value>) -> Vec<Lofs> {
    let list = manifest.get("filesystems").and_then(Value::as_array);
    let parse = |one: &Value| {
        let has = |option: &str| {
            one.get("options")
                .and_then(Value::as_array)
                .is_some_and(|all| all.iter().any(|name| name == option))
        };
        Some(Lofs {
            source: PathBuf::from(one.get("source")?.as_str()?),
            target: PathBuf::from(one.get("target")?.as_str()?),
            read_only: has("ro"),
        })
    };
    list.map(|all| all.iter().filter_map(parse).collect()).unwrap_or_default()
}

impl Spec {
    /// Reads a checked manifest.
    pub(crate) fn of(
        manifest: &Map<String, Value>,
        internal: &Map<String, Value>,
    ) -> Spec {
        let memory = number(manifest, "max_physical_memory").unwrap_or(256);
        let swap = number(manifest, "max_swap").unwrap_or(memory);
        let tmpfs_upper = text(internal, "upper") == Some("tmpfs")
            || std::env::var_os("NTRACE_UPPER").is_some_and(|v| v == "tmpfs");
        let nics = manifest.get("nics").and_then(Value::as_array);
        let image = text(manifest, "image_uuid").unwrap_or_default();
        Spec {
            limits: Limits {
                memory: memory * MIB,
                swap: swap.max(memory) * MIB,
                cpu_cap: number(manifest, "cpu_cap"),
                pids: number(manifest, "max_lwps").unwrap_or(2000),
            },
            quota: number(manifest, "quota")
                .filter(|quota| *quota > 0)
                .map(|quota| quota << 30),
            tmpfs: number(manifest, "tmpfs").unwrap_or(memory) * MIB,
            hostname: text(manifest, "hostname")
                .or(text(manifest, "alias"))
                .or(text(manifest, "uuid"))
                .unwrap_or("zone")
                .to_owned(),
            network: match nics {
                Some(nics) if !nics.is_empty() => Network::Host,
                _ => Network::Loopback,
            },
            filesystems: filesystems(manifest),
            host_image: image == HOST_IMAGE,
            base: text(manifest, "ntrace_base").unwrap_or(image).to_owned(),
            upper: if tmpfs_upper { Upper::Tmpfs } else { Upper::Disk },
        }
    }
}
