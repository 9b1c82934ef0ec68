//! Globs over relative paths: `*` and `?` within a name, `**` for any depth.
//!
//! Pure. Linear in memory; the time is bounded by pattern times path.

/// Whether `path` fits `glob`, name by name.
pub(super) fn fits(glob: &str, path: &str) -> bool {
    let glob = glob.strip_prefix("./").unwrap_or(glob);
    let patterns: Vec<&str> =
        glob.split('/').filter(|part| !part.is_empty()).collect();
    let names: Vec<&str> = path.split('/').collect();
    // reach[i]: the names so far fit the first i patterns.
    let mut reach = vec![false; patterns.len() + 1];
    reach[0] = true;
    close(&patterns, &mut reach);
    for name in names {
        let mut next = vec![false; patterns.len() + 1];
        for (at, pattern) in patterns.iter().enumerate() {
            if !reach[at] {
                continue;
            }
            if *pattern == "**" {
                next[at] = true;
            } else if name_fits(pattern.as_bytes(), name.as_bytes()) {
                next[at + 1] = true;
            }
        }
        close(&patterns, &mut next);
        reach = next;
    }
    reach[patterns.len()]
}

/// `**` may stand for no name at all.
fn close(patterns: &[&str], reach: &mut [bool]) {
    for (at, pattern) in patterns.iter().enumerate() {
        if reach[at] && *pattern == "**" {
            reach[at + 1] = true;
        }
    }
}

fn name_fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                n += 1;
            }
            Some(c) if *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    p = at + 1;
                    n = taken + 1;
                    star = Some((at, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_fit_what_they_should() {
        for (glob, path, fit) in [
            ("coverage/**", "coverage/a", true),
            ("coverage/**", "coverage/a/b/c", true),
            ("coverage/**", "coverage", true),
            ("coverage/**", "cover/a", false),
            ("*.log", "a.log", true),
            ("*.log", "x/a.log", false),
            ("**/*.log", "a.log", true),
            ("**/*.log", "x/y/a.log", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/x/y/c", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("./a", "a", true),
            ("a*b*c", "axxbxxbc", true),
            ("a*b*c", "axxbxxb", false),
        ] {
            assert_eq!(fits(glob, path), fit, "{glob} {path}");
        }
    }

    #[test]
    fn a_hostile_glob_ends_soon() {
        let glob = "*a".repeat(200);
        let path = "a".repeat(4000) + "b";
        assert!(!fits(&glob, &path));
        let glob = "**/".repeat(200) + "x";
        let path = "a/".repeat(500) + "b";
        assert!(!fits(&glob, &path));
    }
}
