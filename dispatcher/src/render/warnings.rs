//! What whoever looks at traces should know. Pure.

use ntrace_profile::Profile;
use ntrace_protocol::compare::Side;
use ntrace_protocol::text::escape;
use ntrace_protocol::trace::Health;
use ntrace_store::Traced;

/// The most sentences of one side.
const MOST: usize = 8;
/// The longest of a foreign sentence, in characters.
const LONGEST: usize = 300;
/// Fewer samples than this are no picture.
const FEW: u64 = 100;

/// What is to be known of a side.
pub(super) fn of_side<'a>(
    which: &str,
    runs: impl Iterator<Item = &'a Traced>,
    profiles: &[Profile],
) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    let mut add = |text: String| {
        let text = format!("{which}: {text}");
        if said.len() < MOST && !said.contains(&text) {
            said.push(text);
        }
    };
    let mut samples = 0_u64;
    let (mut lost, mut foreign) = (0_u64, Vec::new());
    for profile in profiles {
        samples = samples.saturating_add(profile.total().samples);
        lost = lost.saturating_add(profile.header.lost);
        foreign.extend(profile.header.warnings.iter());
    }
    if samples == 0 {
        add("there is no sample: nothing ran on a processor for long".into());
    } else if samples < FEW {
        add(format!("{samples} samples are few; a longer run shows more"));
    }
    if lost > 0 {
        add(format!("{lost} samples were lost"));
    }
    for trace in runs.filter_map(|run| run.trace.as_ref()) {
        if trace.health() == Health::Poor
            && let Some(share) = trace.samples_over_cpu
        {
            add(format!(
                "the samples account for {:.0} % of the processor time used, \
                 so the trace does not tell where it went",
                share * 100.0
            ));
        }
        trace.warnings.iter().for_each(|text| add(escape(text)));
    }
    for text in foreign {
        let short: String = text.chars().take(LONGEST).collect();
        add(escape(&short));
    }
    said
}

/// What is to be known of a difference.
pub(super) fn of_difference(
    new: &Side,
    base: &Side,
    is_same_work: bool,
) -> Vec<String> {
    let mut said = Vec::new();
    if !is_same_work {
        said.push("the sides ran different commands".to_owned());
    }
    let differ = |what: &str, of: fn(&Side) -> Vec<String>| {
        let (new, base) = (of(new), of(base));
        let both = [new.join(", "), base.join(", ")];
        let is_known = !new.is_empty() && !base.is_empty();
        (is_known && new != base)
            .then(|| format!("the {what} differ: {} and {}", both[0], both[1]))
    };
    said.extend(differ("tracers", |side| {
        each(side.runs.iter().filter_map(|r| r.tracer.map(|t| t.to_string())))
    }));
    said.extend(differ("rates", |side| {
        each(side.runs.iter().filter_map(|r| Some(format!("{} Hz", r.hz?))))
    }));
    said.extend(differ("workers", |side| {
        each(side.runs.iter().filter_map(|r| r.worker.map(|w| w.to_string())))
    }));
    let fewest = new.profiles.min(base.profiles);
    if fewest < 8 {
        let best = if fewest < 4 { "hint" } else { "likely" };
        said.push(format!(
            "{} and {} profiles: no change can be more than a {best}; \
             `repeat = 8` makes enough of them",
            new.profiles, base.profiles
        ));
    }
    said
}

/// What is to be known of a difference that all functions have alike.
pub(super) fn of_machine(part: f64) -> String {
    format!(
        "all functions together take {:+.1} %, each about as much, as they \
         do when the machine is busier or slower; so none is called",
        part * 100.0
    )
}

/// Each word once, in order.
fn each(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut words: Vec<String> = words.collect();
    words.sort();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn side(profiles: u32, runs: serde_json::Value) -> Side {
        let side = json!({"runs": runs, "profiles": profiles, "samples": 1,
            "cpu_seconds": 1.0});
        serde_json::from_value(side).unwrap()
    }

    fn run(more: serde_json::Value) -> serde_json::Value {
        let mut run = json!({
            "job": "0192d3a4-5b6c-7d8e-9f00-112233445566",
            "run_id": "0192d3a4-5b6c-7d8e-9f00-112233445567",
            "submitted": "2026-11-21T09:00:00.000Z",
        });
        let map = run.as_object_mut().unwrap();
        map.extend(more.as_object().unwrap().clone());
        run
    }

    #[test]
    fn sides_that_cannot_be_compared_plainly_are_told() {
        let worker = "8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e5f";
        let new = side(8, json!([run(json!({"hz": 99, "tracer": "sample"}))]));
        let more = json!({"hz": 199, "tracer": "perf", "worker": worker});
        let base = side(4, json!([run(more)]));
        let said = of_difference(&new, &base, false).join("\n");
        for part in [
            "different commands",
            "the tracers differ: sample and perf",
            "the rates differ: 99 Hz and 199 Hz",
            "8 and 4 profiles: no change can be more than a likely",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("workers"), "one is not known: {said}");
        assert!(of_difference(&new, &side(9, json!([])), true).is_empty());
    }
}
