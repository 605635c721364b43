//! What the folders are that this program makes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a folder holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FolderKind {
    /// A run, or a share of one, as far as it is.
    #[default]
    Run,
    /// Maps that were fitted from second-moment sums, with their r².
    Fitted,
    /// Lenses that are mean derivatives, with their sums.
    Lenses,
    /// Maps of other programs.
    ImportedMaps,
    /// Maps for others.
    ExportedMaps,
    /// Several runs beside one another.
    Comparison,
    /// A model with fewer blocks.
    Pruned,
    /// Figures and report, drawn from tables without a manifest.
    Figures,
}

impl FolderKind {
    /// Whether it is a run's.
    pub fn is_run(&self) -> bool {
        *self == Self::Run
    }

    /// The endings of the files that are written into such a folder.
    pub fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Run | Self::Fitted => {
                &["jsonl", "safetensors", "csv", "json", "parquet", "svg", "pdf", "png", "html"]
            }
            Self::Lenses => &["safetensors", "csv"],
            Self::ImportedMaps => &["safetensors"],
            Self::ExportedMaps => &["safetensors", "npz", "md", "pt", "json"],
            Self::Comparison => &["svg", "pdf", "png", "csv"],
            Self::Pruned => &["safetensors", "json", "csv", "md", "txt", "jinja"],
            Self::Figures => &["svg", "pdf", "png", "html"],
        }
    }
}

impl fmt::Display for FolderKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Run => "a run",
            Self::Fitted => "maps fitted from second-moment sums",
            Self::Lenses => "lenses fitted on prompts",
            Self::ImportedMaps => "imported maps",
            Self::ExportedMaps => "exported maps",
            Self::Comparison => "a comparison of runs",
            Self::Pruned => "a pruned model",
            Self::Figures => "figures drawn from tables",
        })
    }
}
