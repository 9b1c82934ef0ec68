//! Programs in the languages that people push: where they burn is known, and
//! so is what people call the places.

use std::path::Path;

use crate::seen::{Seen, sample};
use crate::zone::{Who, Zone, compile_cpp, installed, skip};

/// Points by which a share may be off. The programs burn in long pieces, so
/// that chance has little part in it.
const POINTS: f64 = 3.0;

/// Samples a second.
const HZ: u32 = 997;

/// The shares that the three functions have of what they have together, and
/// the names as they are found in the profile.
#[track_caller]
fn is_split(seen: &Seen, what: &str, names: [&str; 3]) {
    let counts = names.map(|name| {
        seen.count(|frames| frames.iter().any(|(known, _)| *known == name))
    });
    let all: u64 = counts.iter().sum();
    assert!(all > 200, "{what}: {counts:?} {:?}", seen.names());
    for ((name, count), truth) in
        names.into_iter().zip(counts).zip([70.0, 20.0, 10.0])
    {
        let found = count as f64 * 100.0 / all as f64;
        eprintln!("{what}: {name} {found:.1} %, in truth {truth} %");
        assert!((found - truth).abs() <= POINTS, "{name}: {found:.1} %");
    }
    eprintln!("{what}: {:?}", seen.summary);
}

/// The zone of a test, and the sampler's order for it.
fn put_cpp(share: &Path) {
    let options = ["-O2", "-fomit-frame-pointer"];
    let source = include_str!("programs/split.cpp");
    compile_cpp(source, &share.join("split"), &options);
}

#[test]
fn cpp_without_frame_pointers_is_split_and_demangled() {
    if !installed("c++") {
        return skip("c++ is not installed");
    }
    let zone = Zone::new(Who::Me, put_cpp);
    let mut target = zone.target();
    target.hz = HZ;
    let (seen, _) = sample(&zone, &target, &["split", "40"], &[]);
    let names = [
        "app::Furnace<long>::run(int)",
        "app::(anonymous namespace)::Functor::operator()(int) const",
        "app::by_lambda(int)::{lambda(int)#1}::operator()(int) const",
    ];
    is_split(&seen, "C++", names);
    for (name, raw) in [
        (names[0], "_ZN3app7FurnaceIlE3runEi"),
        (names[1], "_ZNK3app12_GLOBAL__N_17FunctorclEi"),
        (names[2], "_ZZN3app9by_lambdaEiENKUliE_clEi"),
    ] {
        assert_eq!(seen.raw(name), [raw]);
    }
    let main = seen.percent("main");
    eprintln!("C++: main in {main:.1} %");
    assert!(main >= 95.0, "main is reached in {main:.1} % only");
    let over = "app::call<app::(anonymous namespace)::Functor>\
        (app::(anonymous namespace)::Functor const&)";
    assert!(seen.percent(over) > 10.0, "{:?}", seen.names());
}
