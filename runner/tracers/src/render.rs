//! From profiles to what is kept of a trace: the profile in its canonical
//! form, and its flame graph.

use ntrace_profile::{Header, Profile, pprof, svg};

use crate::tracer::{Labels, Trace, TraceError};

/// The flame graph of a profile that somebody else wrote.
pub(crate) fn flame_graph(
    profile: &[u8],
    what: &'static str,
) -> Result<Vec<u8>, TraceError> {
    let profile = pprof::read(profile)
        .map_err(|error| TraceError::Unreadable { what, why: chain(&error) })?;
    Ok(draw(&profile))
}

fn draw(profile: &Profile) -> Vec<u8> {
    svg::flame(&[profile], &svg::Options::default()).into_bytes()
}

/// What a profile is kept as.
pub(crate) fn trace(profile: &Profile) -> Trace {
    Trace {
        profile: pprof::write(profile),
        flame_graph: draw(profile),
        samples: profile.total().samples,
        lost: profile.header.lost,
        throttled: profile.header.throttled,
        share_named: profile.named_share(),
        cpu: None,
        kernel: profile.header.kernel,
        warnings: profile.header.warnings.clone(),
    }
}

/// The header of a profile of this run.
pub(crate) fn header(tracer: &str, hz: u32, labels: &Labels) -> Header {
    Header {
        tracer: tracer.to_owned(),
        hz,
        repository: labels.repository.clone().unwrap_or_default(),
        commit: labels.commit.clone().unwrap_or_default(),
        run_id: labels.run_id.clone(),
        ..Header::default()
    }
}

/// An error with all of its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
