//! What the dispatcher keeps on disk.
//!
//! Knows no sockets and no policy: who gets which job, and what a lost run
//! means, is told by its caller. Whatever it answers is synced before it
//! answers. Three parts: [`db`], the tables with one writer; [`output`], a
//! log file for each run; [`artefact`], the files that runs leave behind.
//!
//! ```text
//! DATA/lock  DATA/jobs.db  DATA/output/<xx>/<job>/<run>.log
//!            DATA/artefacts/<xx>/<job>/<artefact>  DATA/artefacts/parts/
//! ```

pub mod artefact;
pub mod db;
pub mod dir;
mod frame;
pub mod jobs;
pub mod lease;
pub mod line;
mod live;
pub mod output;
pub mod reader;
mod row;
pub mod schema;
mod store;
mod traced;

pub use artefact::{ArtefactName, Caps, GetError, Piece, PutError};
pub use db::{Counts, Fault};
pub use frame::Record;
pub use jobs::{
    Filter, FindError, NewJob, Page, PushError, Pushed, RemoveError,
};
pub use lease::{
    AfterLoss, Decide, Leased, LiveRun, Loss, LossFacts, PastRun, Progress,
    RunError,
};
pub use line::Line;
pub use output::{AppendError, Appended, Extent, Output};
pub use reader::{LogFile, ReadError};
pub use store::{OpenError, Store};
pub use traced::{Among, Behind, StoredProfile, Traced};
