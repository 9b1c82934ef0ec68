//! Node's own profiles as one trace.

use ntrace_profile::{Profile, import};
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
        let read = import::cpuprofile(bytes, header.clone(), "node", CHECKOUT);
        match read {
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

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{"nodes":[
        {"id":1,"callFrame":{"functionName":"(root)","scriptId":"0",
            "url":"","lineNumber":-1,"columnNumber":-1},"children":[2]},
        {"id":2,"callFrame":{"functionName":"byHash","scriptId":"9",
            "url":"file:///home/job/work/job.js","lineNumber":3,
            "columnNumber":1}}],
        "startTime":0,"endTime":30000,"samples":[2,2,2],
        "timeDeltas":[0,10000,10000]}"#;

    #[test]
    fn profiles_of_several_processes_are_one_trace() {
        let file = |name: &str, text: &str| {
            (name.to_owned(), text.as_bytes().to_vec())
        };
        let files = [
            file("7-0.cpuprofile", PROFILE),
            file("8-0.cpuprofile", PROFILE),
            file("9-0.cpuprofile", "{\"nodes\":"),
        ];
        let trace = node_trace(&files, &Labels::default()).unwrap();
        assert!(trace.samples > 0);
        assert!(trace.warnings[0].contains("1 of 3"), "{trace:?}");
        let svg = String::from_utf8(trace.flame_graph).unwrap();
        assert!(svg.contains("byHash"));
        let bad = node_trace(&files[2..], &Labels::default()).unwrap_err();
        assert!(bad.to_string().contains("9-0.cpuprofile"), "{bad}");
    }
}
