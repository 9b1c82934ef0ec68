//! Owner and repository from the URL of a git remote.
//!
//! The forms that hosts like GitHub hand out: `https://HOST/OWNER/REPO.git`,
//! `ssh://git@HOST/OWNER/REPO`, `git@HOST:OWNER/REPO.git`. Pure.

use ntrace_protocol::text::quote;
use ntrace_protocol::{Owner, Repo};

/// Whose repository, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Whose.
    pub owner: Owner,
    /// Which.
    pub repo: Repo,
}

/// The URL does not say whose repository it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the URL of origin, {url}, does not end in OWNER/REPO; name them: ntrace \
     push OWNER REPO COMMIT"
)]
pub struct NotAnOrigin {
    url: String,
}

/// The schemes whose URLs name owner and repository as a path.
const SCHEMES: [&str; 6] =
    ["https://", "http://", "ssh://", "git+ssh://", "git://", "ssh+git://"];

/// Reads the URL of a remote.
///
/// # Errors
/// It has another form. A password in it is not repeated.
pub fn parse_origin(url: &str) -> Result<Origin, NotAnOrigin> {
    let refuse = || NotAnOrigin { url: quote(&without_user(url)) };
    let path = path_of(url.trim()).ok_or_else(refuse)?;
    let path = path.trim_matches('/');
    let (owner, repo) = path.split_once('/').ok_or_else(refuse)?;
    let repo = repo.strip_suffix(".git").unwrap_or(repo);
    Ok(Origin {
        owner: owner.parse().map_err(|_| refuse())?,
        repo: repo.parse().map_err(|_| refuse())?,
    })
}

/// What stands behind the host.
fn path_of(url: &str) -> Option<&str> {
    let scheme = SCHEMES.iter().find_map(|scheme| {
        let head = url.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then(|| &url[scheme.len()..])
    });
    if let Some(rest) = scheme {
        let (host, path) = rest.split_once('/')?;
        return (!host.is_empty()).then_some(path);
    }
    if url.contains("://") {
        return None;
    }
    // As git reads it: `host:path`, with no slash before the colon.
    let (host, path) = url.split_once(':')?;
    let is_host = !host.is_empty() && !host.contains('/');
    is_host.then_some(path)
}

/// The URL without what stands before an `@`, which may be a secret.
fn without_user(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}{}", &url[..scheme + 3], &url[at + 1..])
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_hosts_hand_out_are_read() {
        for url in [
            "https://github.com/dscape/nano.git",
            "https://github.com/dscape/nano",
            "https://github.com/dscape/nano/",
            "HTTPS://user:secret@github.com/dscape/nano.git",
            "http://localhost:3000/dscape/nano",
            "git@github.com:dscape/nano.git",
            "git@github.com:/dscape/nano",
            "github.com:dscape/nano.git",
            "ssh://git@github.com/dscape/nano.git",
            "ssh://git@github.com:22/dscape/nano.git\n",
            "git://github.com/dscape/nano.git",
        ] {
            let origin = parse_origin(url).expect(url);
            assert_eq!(origin.owner.as_str(), "dscape", "{url}");
            assert_eq!(origin.repo.as_str(), "nano", "{url}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for url in [
            "",
            "nano",
            "/srv/git/nano.git",
            "../dscape/nano",
            "file:///srv/dscape/nano",
            "ext::sh -c id",
            "https://github.com/nano",
            "https:///dscape/nano",
            "https://gitlab.com/group/dscape/nano",
            "git@github.com:-dscape/nano",
            "git@github.com:dscape/.git",
            "git@github.com:dscape/..",
            "git@github.com:ds cape/nano",
            "é://x/y",
        ] {
            assert!(parse_origin(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_refusal_repeats_no_password_and_no_escape() {
        let url = "https://me:secret@host/\u{1b}[2J";
        let text = parse_origin(url).unwrap_err().to_string();
        assert!(!text.contains("secret"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
