//! Whatever is thrown at it: random profiles, random bytes.

use ntrace_profile::svg::{self, Direction, Growth, Options, Order};
use ntrace_profile::{
    FrameKind, Header, Profile, Symbol, Value, folded, import, pprof,
};
use proptest::prelude::*;

/// Names as compilers, people and attackers write them.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,4}",
        "[a-z]{1,3} [0-9]{1,3}",
        Just("<script>alert(1)</script>".to_owned()),
        Just("]]><svg/onload=alert(1)>".to_owned()),
        Just("a&amp;b'\"\u{202e}\u{1b}[2J\r\n\t".to_owned()),
        any::<String>(),
    ]
}

fn kind() -> impl Strategy<Value = FrameKind> {
    // A process stands at the root only.
    prop::sample::select(&FrameKind::ALL[1..])
}

type Stack = (String, Vec<(String, FrameKind, u32)>, u64, u64);

fn stacks() -> impl Strategy<Value = Vec<Stack>> {
    let frame = (name(), kind(), 0_u32..1000);
    let frames = prop::collection::vec(frame, 0..12);
    prop::collection::vec((name(), frames, 0_u64..1000, 0_u64..1 << 40), 0..20)
}

fn build(stacks: &[Stack]) -> Profile {
    let header = Header {
        tracer: "sample".into(),
        hz: 199,
        start_ns: 1 << 60,
        duration_ns: 12,
        lost: 3,
        kernel: true,
        repository: "o/r".into(),
        commit: "<b>".into(),
        warnings: vec!["a <warning> & \u{1b}more".into()],
        ..Header::default()
    };
    let mut profile = Profile::new(header);
    for (process, frames, samples, cpu_ns) in stacks {
        let process = profile.process(process);
        let frames: Vec<_> = frames
            .iter()
            .map(|(name, kind, line)| {
                let symbol = Symbol::new(name, *kind)
                    .in_module("m")
                    .at("dir/f.js", *line);
                profile.frame(&symbol)
            })
            .collect();
        let value = Value { samples: *samples, cpu_ns: *cpu_ns };
        profile.add(process, &frames, value);
    }
    profile
}

/// Everything a profile says, in an order of its own.
fn said(profile: &Profile) -> Vec<String> {
    let mut said: Vec<String> = profile
        .samples()
        .iter()
        .map(|sample| {
            let frames = profile.stack(sample.stack);
            let frames: Vec<_> =
                frames.iter().map(|id| profile.view(*id)).collect();
            format!("{frames:?} {:?}", sample.value)
        })
        .collect();
    said.sort();
    said
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pprof_keeps_everything(stacks in stacks()) {
        let profile = build(&stacks);
        let bytes = pprof::write(&profile);
        let again = pprof::read(&bytes).unwrap();
        prop_assert_eq!(&again.header, &profile.header);
        prop_assert_eq!(said(&again), said(&profile));
        prop_assert_eq!(pprof::write(&profile), bytes);
    }

    #[test]
    fn folded_text_keeps_stacks_and_counts(
        stacks in prop::collection::vec(
            (prop::collection::vec(("[a-zä ]{0,3}x[0-9]?", kind()), 1..9),
             1_u64..9), 0..9),
    ) {
        let mut profile = Profile::new(Header { hz: 1, ..Header::default() });
        for (frames, samples) in &stacks {
            let process = profile.process(&frames[0].0);
            let frames: Vec<_> = frames[1..].iter().map(|(name, kind)| {
                profile.frame(&Symbol::new(name, *kind))
            }).collect();
            profile.add_samples(process, &frames, *samples);
        }
        let text = folded::write(&profile);
        let again =
            folded::read(text.as_bytes(), Header::default()).unwrap();
        prop_assert_eq!(folded::write(&again), text);
        prop_assert_eq!(again.total().samples, profile.total().samples);
    }

    #[test]
    fn a_picture_is_well_formed_and_holds_no_foreign_markup(
        base in stacks(),
        new in stacks(),
        icicle in any::<bool>(),
        by_width in any::<bool>(),
    ) {
        let (base, new) = (build(&base), build(&new));
        let options = Options {
            growth: if icicle { Growth::Icicle } else { Growth::Flame },
            order: if by_width { Order::Width } else { Order::Name },
            ..Options::default()
        };
        let pictures = [
            svg::flame(&[&base, &new], &options),
            svg::diff(&[&base], &[&new], Direction::New, &options),
            svg::diff(&[&base], &[&new], Direction::Base, &options),
        ];
        for picture in pictures {
            let document = roxmltree::Document::parse(&picture)
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            let scripts = document
                .descendants()
                .filter(|node| node.has_tag_name(
                    ("http://www.w3.org/2000/svg", "script")))
                .count();
            prop_assert_eq!(scripts, 1);
            let ours = ["svg", "title", "desc", "style", "rect", "text",
                        "g", "script"];
            for node in document.descendants().filter(|n| n.is_element()) {
                prop_assert!(ours.contains(&node.tag_name().name()));
                let harmless = node.attributes().all(|attribute| {
                    let name = attribute.name();
                    !name.starts_with("on") && !name.contains("href")
                });
                prop_assert!(harmless);
            }
            let turns = picture.contains('\u{202e}');
            prop_assert!(!turns);
        }
    }

    #[test]
    fn random_bytes_are_refused_not_followed(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let _ = pprof::read(&bytes);
        let _ = folded::read(&bytes, Header::default());
    }

    #[test]
    fn whatever_other_programs_print_is_read_without_a_panic(
        lines in prop::collection::vec(prop_oneof![
            Just("".to_owned()),
            Just("-".to_owned()),
            Just("12".to_owned()),
            Just("ntrace ready".to_owned()),
            Just("   m`f+0x1".to_owned()),
            Just("  f at /x/y.js position 3".to_owned()),
            Just("\t 7f00 _ZN1aE+0x1 (/x (deleted))".to_owned()),
            Just("sh 1/2 3.4: 5 cpu-clock:".to_owned()),
            "[ -~]{0,30}",
            any::<String>(),
        ], 0..30),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        for text in [lines.join("\n").as_bytes(), &bytes] {
            let _ = import::dtrace(text, Header::default(), "/x");
            let _ = import::perf_script(text, Header::default(), "/x");
            let _ = import::cpuprofile(text, Header::default(), "n", "/x");
        }
    }

    #[test]
    fn a_damaged_profile_is_read_or_refused(
        stacks in stacks(),
        flips in prop::collection::vec((any::<prop::sample::Index>(),
                                        any::<u8>()), 1..5),
    ) {
        use std::io::Read as _;
        let packed = pprof::write(&build(&stacks));
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_end(&mut plain)
            .unwrap();
        for (at, byte) in flips {
            let at = at.index(plain.len());
            plain[at] = byte;
        }
        if let Ok(profile) = pprof::read(&plain) {
            let _ = folded::write(&profile);
            let _ = svg::flame(&[&profile], &Options::default());
        }
    }
}
