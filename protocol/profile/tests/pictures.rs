//! What a differential picture claims.

use ntrace_profile::svg::{self, Direction, Options};
use ntrace_profile::{Header, Profile, folded};

fn profile(text: &str) -> Profile {
    let header = Header { hz: 100, ..Header::default() };
    folded::read(text.as_bytes(), header).expect("it is folded text")
}

fn picture(base: &str, new: &str, direction: Direction) -> String {
    let (base, new) = (profile(base), profile(new));
    svg::diff(&[&base], &[&new], direction, &Options::default())
}

/// The box of a function: its group, as markup.
fn box_of<'a>(picture: &'a str, name: &str) -> &'a str {
    let title = format!("<title>{name}\n");
    let at = picture.find(&title).expect("the function has a box");
    let start = picture[..at].rfind("<g ").expect("a box is a group");
    let end = at + picture[at..].find("</g>").expect("a group ends");
    &picture[start..end]
}

/// The colour of a function's box: red, green, blue.
fn colour(picture: &str, name: &str) -> [u8; 3] {
    let group = box_of(picture, name);
    let at = group.find("fill=\"#").expect("a box has a colour") + 7;
    [0, 2, 4].map(|n| {
        u8::from_str_radix(&group[at + n..at + n + 2], 16).expect("a colour")
    })
}

const BASE: &str = "p;main;a 1000\np;main;b 1000\n";

#[test]
fn a_change_that_stands_out_is_strong_and_noise_is_pale() {
    let new = "p;main;a 2000\np;main;b 1030\n";
    for direction in [Direction::New, Direction::Base] {
        let picture = picture(BASE, new, direction);
        assert!(picture.contains("out of the noise: 1 hint"), "{picture}");
        assert!(box_of(&picture, "a").contains(r#"data-mark="+10.00 s""#));
        assert!(
            box_of(&picture, "a").contains("how sure of the function: hint")
        );
        assert!(box_of(&picture, "a").contains("10.00 s → 20.00 s (+10.00 s)"));
        assert!(!box_of(&picture, "b").contains("data-mark"));
        let [red, _, blue] = colour(&picture, "a");
        assert!(red > blue + 120, "strong: {red} {blue}");
        let [red, _, blue] = colour(&picture, "b");
        assert!(red > blue && red < blue + 60, "pale: {red} {blue}");
    }
    let less = picture(new, BASE, Direction::New);
    assert!(box_of(&less, "a").contains(r#"data-mark="−10.00 s""#));
    let [red, _, blue] = colour(&less, "a");
    assert!(blue > red + 120, "strong: {red} {blue}");
}

#[test]
fn two_runs_of_the_same_claim_nothing() {
    let new = "p;main;a 1010\np;main;b 985\n";
    let picture = picture(BASE, new, Direction::New);
    assert!(picture.contains("no function stands out of the noise"));
    assert!(!picture.contains("data-mark=\""), "{picture}");
    for name in ["a", "b", "main"] {
        let [red, _, blue] = colour(&picture, name);
        assert!(red.abs_diff(blue) < 60, "{name}: {red} {blue}");
    }
}

#[test]
fn what_only_the_other_commit_has_is_said() {
    let new = "p;main;a 1000\np;main;c 500\n";
    let widths_new = picture(BASE, new, Direction::New);
    assert!(widths_new.contains("10.00 s of stacks that only the base commit"));
    let widths_base = picture(BASE, new, Direction::Base);
    assert!(widths_base.contains("5.00 s of stacks that only the new commit"));
}
