//! Compares two folded texts by hand: `compare BASE NEW PICTURE` prints the
//! table and writes the differential picture with the widths of the new.

use ntrace_profile::svg::{self, Direction, Options};
use ntrace_profile::{Header, Profile, diff, folded};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [base, new, picture] = &words[..] else {
        return Err("usage: compare BASE NEW PICTURE".into());
    };
    let read = |path: &String| -> Result<Profile, Box<dyn std::error::Error>> {
        let header = Header { hz: 199, ..Header::default() };
        Ok(folded::read(&std::fs::read(path)?, header)?)
    };
    let (base, new) = (read(base)?, read(new)?);
    print!("{}", diff::diff(&[&base], &[&new]).table(12));
    let options = Options::default();
    let drawn = svg::diff(&[&base], &[&new], Direction::New, &options);
    std::fs::write(picture, drawn)?;
    Ok(())
}
