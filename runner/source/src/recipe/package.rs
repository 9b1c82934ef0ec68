//! `package.json`: scripts to run, dependencies to install.

use serde_json::{Map, Value};

use super::{Detected, Look, RecipeError, Root, found};

pub(super) const NAME: &str = "package.json";

/// Scripts that are run, the first that is there, and how.
const SCRIPTS: &[(&str, &str)] = &[
    ("benchmark", "npm run benchmark"),
    ("benchmarks", "npm run benchmarks"),
    ("test", "npm test"),
];

/// With one of these, `npm ci` installs exactly what was locked.
const LOCKS: &[&str] = &["package-lock.json", "npm-shrinkwrap.json"];

/// Locks of other package managers, which npm does not read.
const OTHER_LOCKS: &[&str] =
    &["pnpm-lock.yaml", "yarn.lock", "bun.lock", "bun.lockb"];

/// What an installation is for.
const NEEDS: &[&str] = &[
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "workspaces",
];

/// Scripts that npm runs at an installation.
const INSTALLING: &[&str] =
    &["preinstall", "install", "postinstall", "prepare"];

pub(super) fn detect(root: &Root) -> Look {
    let Some(text) = root.text(NAME)? else { return Ok(None) };
    let bad = |why: String| RecipeError::Bad { file: NAME, why };
    let value: Value = serde_json::from_str(text)
        .map_err(|error| bad(format!("not JSON: {error}")))?;
    let Value::Object(package) = value else {
        return Err(bad("not a JSON object".to_owned()));
    };
    let scripts = package.get("scripts").and_then(Value::as_object);
    let chosen = SCRIPTS.iter().find(|(name, _)| has_script(scripts, name));
    let Some((script, run)) = chosen else {
        let hint = "package.json has no script benchmark, benchmarks or test";
        return Ok(Some(Detected::Nothing { hint: hint.to_owned() }));
    };
    let origin = format!("the script {script:?} of package.json");
    if !needs_install(root, &package, scripts) {
        return found(None, run, origin);
    }
    if LOCKS.iter().any(|lock| root.has(lock)) {
        return found(Some("npm ci"), run, origin);
    }
    let origin = match OTHER_LOCKS.iter().find(|lock| root.has(lock)) {
        Some(lock) => {
            format!("{origin} (npm install; {lock} is not read by npm)")
        }
        None => origin,
    };
    found(Some("npm install"), run, origin)
}

fn has_script(scripts: Option<&Map<String, Value>>, name: &str) -> bool {
    scripts
        .and_then(|scripts| scripts.get(name))
        .and_then(Value::as_str)
        .is_some_and(|script| {
            !script.trim().is_empty() && !is_placeholder(name, script)
        })
}

/// What `npm init` writes where there is no test.
fn is_placeholder(name: &str, script: &str) -> bool {
    name == "test" && script.contains("Error: no test specified")
}

fn needs_install(
    root: &Root,
    package: &Map<String, Value>,
    scripts: Option<&Map<String, Value>>,
) -> bool {
    let filled = |key: &&'static str| match package.get(*key) {
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        _ => false,
    };
    NEEDS.iter().any(filled)
        || INSTALLING.iter().any(|name| has_script(scripts, name))
        || root.has("binding.gyp")
}
