//! V8's `.cpuprofile`: a tree of functions, and which was running when.
//!
//! A sample weighs the time until the next one, as V8 samples unevenly.

use std::collections::HashMap;

use serde::Deserialize;

use crate::frame::{FrameId, FrameKind, Symbol};
use crate::header::Header;
use crate::names;
use crate::profile::{Profile, Value};

/// Why a file is no profile of V8.
#[derive(Debug, thiserror::Error)]
pub enum CpuProfileError {
    /// It is no JSON, or not in this form.
    #[error("the .cpuprofile is damaged")]
    Json(#[from] serde_json::Error),
    /// The calls run in a circle, or a node has two callers.
    #[error("the .cpuprofile is damaged: its calls are no tree at node {0}")]
    NoTree(u64),
    /// A sample is of a node that is not there.
    #[error("the .cpuprofile is damaged: there is no node {0}")]
    Missing(u64),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    nodes: Vec<Node>,
    #[serde(default)]
    start_time: f64,
    #[serde(default)]
    end_time: f64,
    #[serde(default)]
    samples: Vec<u64>,
    /// Microseconds before each sample.
    #[serde(default)]
    time_deltas: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    id: u64,
    call_frame: CallFrame,
    #[serde(default)]
    children: Vec<u64>,
    parent: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallFrame {
    #[serde(default)]
    function_name: String,
    #[serde(default)]
    url: String,
    /// From 0; -1 when not known.
    #[serde(default)]
    line_number: f64,
}

/// Reads a `.cpuprofile`. `process` names its process; `checkout` is the
/// directory of the job's tree, or empty. Idle time is left out: it is no
/// CPU time.
pub fn cpuprofile(
    bytes: &[u8],
    header: Header,
    process: &str,
    checkout: &str,
) -> Result<Profile, CpuProfileError> {
    let file: File = serde_json::from_slice(bytes)?;
    let rows: HashMap<u64, usize> =
        (0..).zip(&file.nodes).map(|(row, node)| (node.id, row)).collect();
    let values = values(&file, &rows)?;
    let callers = callers(&file, &rows)?;
    let mut profile = Profile::new(header);
    complete(&mut profile.header, &file);
    let process = profile.process(process);
    let frames: Vec<Option<FrameId>> = file
        .nodes
        .iter()
        .map(|node| {
            symbol(&node.call_frame, checkout).map(|s| profile.frame(&s))
        })
        .collect();
    for (row, value) in values.into_iter().enumerate() {
        let function = &file.nodes[row].call_frame.function_name;
        if value == Value::default() || function == "(idle)" {
            continue;
        }
        let mut stack = Vec::new();
        let mut at = Some(row);
        for _ in 0..=file.nodes.len() {
            let Some(row) = at else { break };
            stack.extend(frames[row]);
            at = callers[row];
        }
        if let Some(row) = at {
            return Err(CpuProfileError::NoTree(file.nodes[row].id));
        }
        stack.reverse();
        profile.add(process, &stack, value);
    }
    Ok(profile)
}

/// Puts what the file says of itself into a header that does not say it.
fn complete(header: &mut Header, file: &File) {
    let span = (file.end_time - file.start_time).max(0.0);
    if header.duration_ns == 0 {
        header.duration_ns = (span * 1e3) as u64;
    }
    if header.hz == 0 && span > 0.0 {
        let hz = file.samples.len() as f64 / span * 1e6;
        header.hz = hz.round().min(1e6) as u32;
    }
    if header.tracer.is_empty() {
        header.tracer = "cpuprofile".to_owned();
    }
}

/// What was measured on each node.
fn values(
    file: &File,
    rows: &HashMap<u64, usize>,
) -> Result<Vec<Value>, CpuProfileError> {
    let mut values = vec![Value::default(); file.nodes.len()];
    let before_last: f64 = file.time_deltas.iter().sum();
    let last = (file.end_time - file.start_time - before_last).max(0.0);
    for (n, id) in file.samples.iter().enumerate() {
        let row = *rows.get(id).ok_or(CpuProfileError::Missing(*id))?;
        let until_next = file.time_deltas.get(n + 1).copied();
        let us = until_next.unwrap_or(last).max(0.0);
        let cpu_ns = (us * 1e3) as u64;
        values[row].add(Value { samples: 1, cpu_ns });
    }
    Ok(values)
}

/// The caller of each node; the root's is none.
fn callers(
    file: &File,
    rows: &HashMap<u64, usize>,
) -> Result<Vec<Option<usize>>, CpuProfileError> {
    let mut callers = vec![None; file.nodes.len()];
    for (row, node) in file.nodes.iter().enumerate() {
        if let Some(parent) = node.parent {
            let parent = rows.get(&parent).copied();
            callers[row] = callers[row].or(parent);
        }
        for child in &node.children {
            let child =
                *rows.get(child).ok_or(CpuProfileError::Missing(*child))?;
            if callers[child].is_some_and(|caller| caller != row) {
                let id = file.nodes[child].id;
                return Err(CpuProfileError::NoTree(id));
            }
            callers[child] = Some(row);
        }
    }
    Ok(callers)
}

/// A node's frame; the root has none.
fn symbol(frame: &CallFrame, checkout: &str) -> Option<Symbol<'static>> {
    let name = frame.function_name.as_str();
    match name {
        "(root)" => None,
        "(program)" | "(garbage collector)" | "(idle)" => {
            Some(Symbol::new(name.to_owned(), FrameKind::Native))
        }
        _ => {
            let line = (frame.line_number + 1.0).max(0.0) as u32;
            Some(names::script(name, &frame.url, line, checkout))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folded;

    fn read(json: &str) -> Result<Profile, CpuProfileError> {
        cpuprofile(json.as_bytes(), Header::default(), "node", "/job")
    }

    const GOOD: &str = r#"{"nodes":[
        {"id":1,"callFrame":{"functionName":"(root)","url":"",
            "lineNumber":-1},"children":[2,3]},
        {"id":2,"callFrame":{"functionName":"(idle)","url":"",
            "lineNumber":-1}},
        {"id":3,"callFrame":{"functionName":"","url":"file:///job/a.js",
            "lineNumber":0},"children":[4]},
        {"id":4,"callFrame":{"functionName":"fib","url":"/job/lib/f.js",
            "lineNumber":6}}],
        "startTime":1000,"endTime":11000,
        "samples":[3,4,2,4],"timeDeltas":[1000,2000,3000,1500]}"#;

    #[test]
    fn a_sample_weighs_the_time_until_the_next() {
        let profile = read(GOOD).unwrap();
        assert_eq!(
            folded::write(&profile),
            "node;(anonymous) a.js_[j] 1\n\
             node;(anonymous) a.js_[j];fib lib/f.js_[j] 2\n"
        );
        // 2 ms of the first, 3 and 2.5 ms of fib; 1.5 ms were idle.
        assert_eq!(profile.total().cpu_ns, 7_500_000);
        let fib = profile.samples()[1];
        assert_eq!(fib.value.cpu_ns, 5_500_000);
        let frame = profile.stack(fib.stack)[2];
        let view = profile.view(frame);
        assert_eq!((view.file, view.line), ("lib/f.js", 7));
        assert_eq!(profile.header.hz, 400);
    }

    #[test]
    fn damage_is_named() {
        let circle = GOOD.replace(r#""children":[4]"#, r#""children":[3]"#);
        let error = read(&circle).unwrap_err();
        assert!(matches!(error, CpuProfileError::NoTree(3)), "{error}");
        let missing = GOOD.replace("[3,4,2,4]", "[3,4,2,9]");
        let error = read(&missing).unwrap_err();
        assert!(matches!(error, CpuProfileError::Missing(9)), "{error}");
        assert!(matches!(read("{").unwrap_err(), CpuProfileError::Json(_)));
    }
}
