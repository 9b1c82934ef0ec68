//! Where repositories are: a URL with `{owner}` and `{repo}` in it.
//!
//! Parsed once. Must not know git's options. Invariant: a URL made from a
//! template has one of five schemes and no byte that git, ssh or a shell
//! could take for something else.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::name::Repository;

/// A way to reach repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// TLS.
    Https,
    /// No TLS.
    Http,
    /// ssh.
    Ssh,
    /// git's own, without any protection.
    Git,
    /// Directories of this machine.
    File,
}

impl Scheme {
    /// As in a URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Git => "git",
            Self::File => "file",
        }
    }
}

/// A URL with the two placeholders.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    scheme: Scheme,
    text: String,
}

/// Why a template was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// It does not begin with a scheme that is taken.
    #[error(
        "a source begins with https://, http://, ssh://, git:// or file://, \
         not like {given:?}"
    )]
    Scheme {
        /// Its beginning.
        given: String,
    },
    /// It lacks a placeholder, or has one twice or an unknown one.
    #[error(
        "a source has {{owner}} and {{repo}} in its path, each once, and no \
         other braces: {given:?}"
    )]
    Placeholders {
        /// What was given, without credentials.
        given: String,
    },
    /// It holds a character that is not taken.
    #[error("a source cannot hold {bad:?}")]
    Character {
        /// The character.
        bad: char,
    },
    /// Its host is missing or could be taken for an option.
    #[error("a source needs a host: {given:?}")]
    Host {
        /// What was given, without credentials.
        given: String,
    },
}

impl FromStr for Template {
    type Err = BadTemplate;

    fn from_str(given: &str) -> Result<Self, BadTemplate> {
        let shown = || masked(given).chars().take(200).collect::<String>();
        let schemes = [
            Scheme::Https,
            Scheme::Http,
            Scheme::Ssh,
            Scheme::Git,
            Scheme::File,
        ];
        let found = schemes.into_iter().find_map(|scheme| {
            let rest = given.strip_prefix(scheme.as_str())?;
            Some((scheme, rest.strip_prefix("://")?))
        });
        let Some((scheme, rest)) = found else {
            return Err(BadTemplate::Scheme {
                given: given.chars().take(16).collect(),
            });
        };
        let legal = |c: char| {
            c.is_ascii_alphanumeric() || "-_.~/:@%+,={}[]!".contains(c)
        };
        if let Some(bad) = rest.chars().find(|c| !legal(*c)) {
            return Err(BadTemplate::Character { bad });
        }
        let (authority, path) =
            rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority.rsplit('@').next().unwrap_or(authority);
        let host_is_good = match scheme {
            Scheme::File => authority.is_empty(),
            _ => {
                !host.is_empty()
                    && !host.starts_with(['-', ':'])
                    && !authority.starts_with(['-', '@'])
            }
        };
        if !host_is_good || authority.contains(['{', '}']) {
            return Err(BadTemplate::Host { given: shown() });
        }
        let plain = path.replacen("{owner}", "", 1).replacen("{repo}", "", 1);
        if plain.len() + "{owner}{repo}".len() != path.len()
            || plain.contains(['{', '}'])
            || path.split('/').any(|part| part == "..")
        {
            return Err(BadTemplate::Placeholders { given: shown() });
        }
        Ok(Self { scheme, text: given.to_owned() })
    }
}

impl Template {
    /// How repositories are reached.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// For repositories of this machine: the directory that all of them
    /// have in common.
    #[must_use]
    pub fn local_root(&self) -> Option<PathBuf> {
        let path = self.text.strip_prefix("file://")?;
        let (fixed, _) = path.split_once('{')?;
        let (root, _) = fixed.rsplit_once('/')?;
        Some(if root.is_empty() { "/".into() } else { root.into() })
    }

    /// The URL of one repository. May hold credentials: not for messages.
    pub(crate) fn url(&self, repository: &Repository) -> String {
        self.text.replacen("{owner}", repository.owner(), 1).replacen(
            "{repo}",
            repository.repo(),
            1,
        )
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.text))
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({self})")
    }
}

/// `text` with the user part of each URL in it replaced.
pub(crate) fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let ends =
            |c: char| c == '/' || c.is_whitespace() || "'\"<>".contains(c);
        let end = after.find(ends).unwrap_or(after.len());
        let (authority, more) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                shown.push_str("***@");
                shown.push_str(host);
            }
            None => shown.push_str(authority),
        }
        rest = more;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_repositories_have_a_directory_in_common() {
        let root = |text: &str| text.parse::<Template>().unwrap().local_root();
        let of = |text: &str| Some(PathBuf::from(text));
        assert_eq!(root("file:///srv/git/{owner}/{repo}.git"), of("/srv/git"));
        assert_eq!(root("file:///srv/g-{owner}/{repo}"), of("/srv"));
        assert_eq!(root("file:///{owner}/{repo}"), of("/"));
        assert_eq!(root("https://h/{owner}/{repo}"), None);
    }

    #[test]
    fn a_template_makes_urls() {
        let repository = Repository::new("joe", "x.y").unwrap();
        for (template, url) in [
            (
                "https://github.com/{owner}/{repo}.git",
                "https://github.com/joe/x.y.git",
            ),
            ("file:///srv/git/{owner}/{repo}", "file:///srv/git/joe/x.y"),
            (
                "ssh://git@host:2222/~{owner}/{repo}",
                "ssh://git@host:2222/~joe/x.y",
            ),
            ("http://[::1]:80/{repo}/of/{owner}", "http://[::1]:80/x.y/of/joe"),
        ] {
            let parsed: Template = template.parse().unwrap();
            assert_eq!(parsed.url(&repository), url);
        }
    }

    #[test]
    fn what_git_could_misread_is_refused() {
        for bad in [
            "",
            "github.com/{owner}/{repo}",
            "git@github.com:{owner}/{repo}",
            "ext::sh -c x% {owner} {repo}",
            "ext::https://x/{owner}/{repo}",
            "-uhttps://x/{owner}/{repo}",
            "--upload-pack=x/{owner}/{repo}",
            "https://x/{owner}",
            "https://x/{repo}",
            "https://x/{owner}/{repo}/{repo}",
            "https://x/{owner}/{repo}/{branch}",
            "https://{owner}/{repo}",
            "https:///{owner}/{repo}",
            "ssh://-oProxyCommand=x/{owner}/{repo}",
            "ssh://a@-oProxyCommand=x/{owner}/{repo}",
            "file://host/{owner}/{repo}",
            "file:///srv/../{owner}/{repo}",
            "https://x/{owner}/{repo} ",
            "https://x/{owner}/{repo}\n",
            "https://x/{owner}/{repo}\u{7f}",
            "https://x/{owner}/$(id)/{repo}",
            "ftp://x/{owner}/{repo}",
        ] {
            assert!(bad.parse::<Template>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        let text = "https://joe:secret@host/{owner}/{repo}";
        let template: Template = text.parse().unwrap();
        for shown in [format!("{template}"), format!("{template:?}")] {
            assert!(!shown.contains("secret"), "{shown}");
        }
        assert_eq!(
            masked("to 'https://a:b@c@h/x' and ssh://g@h y@z"),
            "to 'https://***@h/x' and ssh://***@h y@z"
        );
        assert_eq!(masked("plain"), "plain");
    }
}
