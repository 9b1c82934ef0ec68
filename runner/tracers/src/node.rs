//! Node's own profiles as one trace.

use ntrace_profile::Profile;
use ntrace_protocol::text::escape;

use crate::Preload;
use crate::render;
use crate::tracer::{Labels, Trace, TraceError};

/// The directory that a job's paths are shown relative to.
pub(crate) const CHECKOUT: &str = "/home/job/work";

/// Node's own profiles as one trace: one file for each process and thread.
///
/// # Errors
/// None of them can be read.
pub fn node_trace(
    files: &[(String, Vec<u8>)],
    labels: &Labels,
) -> Result<Trace, TraceError> {
    let header = render::header("cpuprofile", Preload::HZ, labels);
    let mut sum = Profile::new(header.clone());
    let mut refused = Vec::new();
    for (name, bytes) in files {
        match import::cpuprofile(bytes, header.clone(), CHECKOUT) {
            Ok(profile) => sum.merge(&profile),
            Err(error) => {
                let name = escape(name);
                refused.push(format!("{name}: {}", render::chain(&error)));
            }
        }
    }
    if let Some(first) = refused.first() {
        if refused.len() == files.len() {
            let why = first.clone();
            return Err(TraceError::Unreadable { what: "node", why });
        }
        sum.header.warn(format!(
            "{} of {} profiles of node cannot be read: {first}",
            refused.len(),
            files.len()
        ));
    }
    Ok(render::trace(&sum))
}

mod import {
    //! Until the crate of profiles has it.
    use ntrace_profile::{Header, Profile};

    /// Refuses.
    pub(crate) fn cpuprofile(
        _: &[u8],
        _: Header,
        _: &str,
    ) -> Result<Profile, std::io::Error> {
        Err(std::io::Error::other("this version cannot read it"))
    }

    pub(crate) use cpuprofile as dtrace;
}
pub(crate) use import::dtrace;
