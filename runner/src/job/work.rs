//! What is to be run: from the push, or from the tree's recipe.

use std::collections::BTreeMap;

use ntrace_protocol::{JobSpec, Limits, TraceOptions};
use ntrace_source::{Overrides, Recipe, Root, Tree};

use super::chain;
use super::environment::shell;

/// What is to be run, and what it wishes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Work {
    /// The set-up's shell command.
    pub(super) setup: Option<String>,
    /// The command, word by word.
    pub(super) argv: Vec<String>,
    /// The command as people read it.
    pub(super) shown: String,
    /// Variables.
    pub(super) env: BTreeMap<String, String>,
    /// Limits that the tree wishes.
    pub(super) limits: Limits,
    /// How the tree wishes to be traced.
    pub(super) trace: TraceOptions,
    /// Globs of files to keep.
    pub(super) artefacts: Vec<String>,
    /// Where all of this comes from, in words.
    pub(super) origin: String,
}

impl Work {
    /// Finds out.
    ///
    /// # Errors
    /// A sentence that says what is missing or bad.
    pub(super) async fn find(
        spec: &JobSpec,
        tree: Option<&Tree>,
    ) -> Result<Self, String> {
        if let Some(argv) = &spec.argv {
            return Ok(Self::given(argv.clone()));
        }
        let Some(tree) = tree else {
            return Err("it has neither a command nor a source".to_owned());
        };
        let root = Root::read(tree).await.map_err(|e| chain(&e))?;
        let overrides =
            Overrides { run: spec.run.clone(), setup: spec.setup.clone() };
        let recipe = Recipe::of(&root, &overrides).map_err(|e| chain(&e))?;
        Ok(Self {
            setup: recipe.setup,
            argv: shell(&recipe.run),
            shown: recipe.run,
            env: recipe.env,
            limits: Limits {
                time: recipe.timeout,
                setup_time: recipe.setup_timeout,
                silence: recipe.silence,
                ..Limits::default()
            },
            trace: recipe.trace,
            artefacts: recipe.artefacts,
            origin: recipe.origin,
        })
    }

    /// A command that was submitted as it is.
    fn given(argv: Vec<String>) -> Self {
        Self {
            setup: None,
            shown: argv.join(" "),
            argv,
            env: BTreeMap::new(),
            limits: Limits::default(),
            trace: TraceOptions::default(),
            artefacts: Vec::new(),
            origin: "the submitted command".to_owned(),
        }
    }
}
