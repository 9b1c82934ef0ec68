//! Patterns of file names: `*` and `?` within one component, `**` across.
//!
//! Pure. A name or pattern of n and m parts costs at most n times m steps.

/// Whether a relative path matches a pattern.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> =
        pattern.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let path: Vec<&str> = path.split('/').collect();
    // Which suffixes of the path the rest of the pattern may begin at.
    let mut places = vec![0];
    for part in pattern {
        places = match part {
            "**" => {
                let first = places.first().copied().unwrap_or(path.len());
                (first..=path.len()).collect()
            }
            part => places
                .into_iter()
                .filter(|at| path.get(*at).is_some_and(|name| one(part, name)))
                .map(|at| at + 1)
                .collect(),
        };
        if places.is_empty() {
            return false;
        }
    }
    places.contains(&path.len())
}

/// One component: greedy with one point to come back to.
fn one(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut from) = (0, 0);
    let mut star = None;
    while from < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[from] => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((star_at, seen)) => {
                    star = Some((star_at, seen + 1));
                    at = star_at + 1;
                    from = seen + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, path, wanted) in [
            ("coverage/**", "coverage/a/b.html", true),
            ("coverage/**", "coverage/x", true),
            ("coverage/**", "coverages/x", false),
            ("*.log", "a.log", true),
            ("*.log", "d/a.log", false),
            ("**/*.log", "a.log", true),
            ("**/*.log", "d/e/a.log", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*b*c", "aXbYbZc", true),
            ("./out.txt", "out.txt", true),
            ("**/x/**/y", "a/x/b/c/y", true),
            ("", "a", false),
            ("*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(matches(pattern, path), wanted, "{pattern} {path}");
        }
    }
}
