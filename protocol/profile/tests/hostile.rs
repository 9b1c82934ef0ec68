//! Profiles that mean harm are refused by name, in bounded room.

use std::io::Write as _;

use ntrace_profile::pprof::{self, ReadError};
use ntrace_profile::svg::{self, Options};
use ntrace_profile::{FrameKind, Header, Profile, Symbol};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::fast();
    let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
    out.write_all(bytes).expect("a vector takes every byte");
    out.finish().expect("a vector takes every byte")
}

/// A field of bytes of the outermost message.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(bytes);
    out
}

/// A profile that counts samples, and these fields.
fn counting(fields: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in ["", "samples", "count"] {
        out.extend(field(6, text.as_bytes()));
    }
    out.extend(field(1, &[0x08, 1, 0x10, 2]));
    out.extend(fields.concat());
    out
}

#[test]
fn a_sample_of_a_location_that_is_not_there_is_named() {
    // Location 9, value 1.
    let bytes = counting(&[field(2, &[0x08, 9, 0x10, 1])]);
    let error = pprof::read(&gzip(&bytes)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the profile is damaged: there is no location 9"
    );
}

#[test]
fn a_string_that_is_not_there_is_named() {
    // Function 1 with name 77; location 1 with a line of it.
    let function = field(5, &[0x08, 1, 0x10, 77]);
    let location = field(4, &[0x08, 1, 0x22, 2, 0x08, 1]);
    let error = pprof::read(&counting(&[function, location])).unwrap_err();
    assert!(matches!(error, ReadError::Missing { what: "string", number: 77 }));
}

#[test]
fn a_negative_value_is_named() {
    let minus_one = [&[0x10][..], &[0xff; 9], &[1]].concat();
    let error = pprof::read(&counting(&[field(2, &minus_one)])).unwrap_err();
    assert_eq!(error.to_string(), "the profile is damaged: a negative value");
}

#[test]
fn a_field_that_says_it_is_huge_is_refused_before_there_is_room_for_it() {
    let bytes = [0x12, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(matches!(
        pprof::read(&bytes).unwrap_err(),
        ReadError::TooBig { what: "one field", .. }
    ));
}

#[test]
fn a_bomb_of_strings_is_refused() {
    // 3 million empty strings: 6 MB that pack to a few KB.
    let bytes = gzip(&[0x32, 0].repeat(3_000_000));
    assert!(bytes.len() < 100_000);
    assert!(matches!(
        pprof::read(&bytes).unwrap_err(),
        ReadError::TooMany { what: "strings", .. }
    ));
}

#[test]
fn zeros_are_no_profile() {
    let error = pprof::read(&[0; 64]).unwrap_err();
    assert!(error.to_string().contains("field number"), "{error}");
}

#[test]
fn a_profile_that_ends_early_is_refused() {
    let whole = pprof::write(&Profile::new(Header::default()));
    let error = pprof::read(&whole[..whole.len() - 9]).unwrap_err();
    assert!(matches!(error, ReadError::Unpack(_)), "{error}");
    // Nothing at all counts nothing.
    assert!(pprof::read(b"").is_err());
}

#[test]
fn a_huge_profile_is_a_bounded_picture_that_says_what_it_hides() {
    let mut profile = Profile::new(Header { hz: 99, ..Header::default() });
    let process = profile.process("job");
    let long = "very::long::name::".repeat(20);
    for n in 0..30_000_u32 {
        let frames = [n % 7, n % 211, n % 9973, n].map(|n| {
            let name = format!("{n}{long}");
            profile.frame(&Symbol::new(name, FrameKind::Native))
        });
        profile.add_samples(process, &frames, 1);
    }
    let picture = svg::flame(&[&profile], &Options::default());
    assert!(picture.len() < 2_200_000, "{} bytes", picture.len());
    assert!(picture.contains("boxes are too narrow to draw"));
    roxmltree::Document::parse(&picture).unwrap();
}

#[test]
fn a_stack_of_ten_thousand_frames_is_drawn_as_far_as_there_are_rows() {
    let mut profile = Profile::new(Header { hz: 99, ..Header::default() });
    let process = profile.process("deep");
    let f = profile.frame(&Symbol::new("f", FrameKind::Native));
    profile.add_samples(process, &vec![f; 10_000], 10);
    let again = pprof::read(&pprof::write(&profile)).unwrap();
    assert_eq!(again.stack(again.samples()[0].stack).len(), 10_001);
    let picture = svg::flame(&[&again], &Options::default());
    assert!(picture.contains("9,602 boxes are too narrow"), "{picture}");
}

#[test]
fn an_empty_profile_is_a_picture_of_the_reason() {
    let mut profile = Profile::new(Header { hz: 99, ..Header::default() });
    let bare = svg::flame(&[&profile], &Options::default());
    assert!(bare.contains("There is nothing to draw"));
    assert!(bare.contains("less than 10 ms"), "{bare}");
    profile.header.warn("perf_event_open was refused <here>");
    let warned = svg::flame(&[&profile], &Options::default());
    assert!(warned.contains("was refused &lt;here&gt;"));
    let reason = Some("the zone was gone".to_owned());
    let options = Options { reason, ..Options::default() };
    assert!(svg::flame(&[], &options).contains("the zone was gone"));
}
