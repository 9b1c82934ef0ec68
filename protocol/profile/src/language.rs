//! In which language a frame was written, as far as its name tells.
//!
//! What names are made of is in [`crate::names`]: a function of a script is
//! followed by its file.

/// A language that is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    JavaScript,
    Python,
    Other,
}

/// What files of JavaScript end in, and what is compiled to it.
const JAVASCRIPT: [&str; 7] =
    [".js", ".mjs", ".cjs", ".ts", ".mts", ".jsx", ".tsx"];
/// What names of V8's own scripts begin with, behind the function's name.
const NODE: [&str; 5] =
    [" node:", " evalmachine.", " webpack:", " [eval", " internal/"];

impl Language {
    /// The language of a frame that was compiled or read while it ran.
    pub(crate) fn of_script(name: &str) -> Self {
        if name.ends_with(".py") || name.contains(" <frozen ") {
            return Self::Python;
        }
        let is_js = JAVASCRIPT.iter().any(|end| name.ends_with(end))
            || NODE.iter().any(|word| name.contains(word))
            || name.starts_with("(anonymous)");
        if is_js { Self::JavaScript } else { Self::Other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_known_by_its_file() {
        use Language::{JavaScript, Other, Python};
        for (name, language) in [
            ("byHash src/job.js", JavaScript),
            ("get fd node:net", JavaScript),
            ("(anonymous)", JavaScript),
            ("work a b.py", Python),
            ("_load <frozen importlib._bootstrap>", Python),
            ("Builtin:ArrayMap", Other),
            ("Ljava/lang/String;::hashCode", Other),
        ] {
            assert_eq!(Language::of_script(name), language, "{name}");
        }
    }
}
