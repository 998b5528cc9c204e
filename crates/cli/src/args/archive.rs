//! What `serve` and `evidence archive` say of the archive.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Where sealed segments of the ledger are archived.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ArchiveFlags {
    /// Where sealed segments of the ledger are copied to, each with a signed manifest: a directory, or
    /// s3://BUCKET/PREFIX; nothing is deleted here
    #[arg(long, value_name = "DIR|S3")]
    pub archive: Option<String>,
    #[command(flatten)]
    pub store: StoreFlags,
    /// How objects in a store are locked: nobody deletes or overwrites them before their time is over
    #[arg(long, value_enum, default_value_t, value_name = "MODE", requires = "archive")]
    pub archive_lock: LockWord,
    /// For how many days they are locked
    #[arg(long, value_name = "DAYS", default_value_t = 3_650, requires = "archive",
        value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub archive_lock_days: u32,
    /// An archive that has failed for so long is an alarm; the plane goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 900, requires = "archive",
        value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub archive_alarm_after: u32,
    /// Remove segments from this disk once the archive has them and their last record is so many days old; what is read of
    /// them then comes from the archive. Nothing is removed without it
    #[arg(long, value_name = "DAYS", requires = "archive", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub archive_keep_local: Option<u32>,
    /// The size of the segments that come from now on: a smaller one is sealed, and archived, sooner [default: 65536]
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u64).range(64..=1_048_576))]
    pub evidence_segment_kib: Option<u64>,
}

/// How a store is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct StoreFlags {
    /// A file with the store's credentials, in the form of ~/.aws/credentials; nobody else may read it
    #[arg(long, value_name = "FILE")]
    pub s3_credentials: Option<PathBuf>,
    /// The store, where it is not Amazon's: https://HOST[:PORT]
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// The region for which requests are signed
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    pub s3_region: String,
}

/// How objects are locked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LockWord {
    /// Nobody may delete or overwrite, the account's root neither
    #[default]
    Compliance,
    /// Whoever has a right of its own may
    Governance,
    /// Not at all: the store is asked for nothing, and whoever has its credentials can delete the archive
    None,
}

/// `evidence archive`
#[derive(Debug, Subcommand)]
pub enum ArchiveCommand {
    /// Say how many segments are in the archive, how many wait, and whether it fails
    Status,
    /// Verify an archive and bring its segments back, without a plane
    #[command(
        after_help = "All of the archive is verified on the way: the chain of signed manifests, every byte, every leaf and\n\
        every checkpoint. If anything is wrong, nothing is left. The directory gets `wal/` with the segments; the keys\n\
        come from your own backup.\n\n\
        Examples:\n  cogward evidence archive restore --from /mnt/archive --key plane.vkey ./evidence\n  \
        cogward evidence archive restore --from s3://bank/cogward --s3-credentials s3.txt --key plane.vkey ./evidence"
    )]
    Restore {
        /// The archive: a directory, or s3://BUCKET/PREFIX
        #[arg(long, value_name = "DIR|S3")]
        from: String,
        /// The public keys of the plane log, or a file with them: `cogward evidence status` prints them
        #[arg(long, value_name = "VKEY|FILE")]
        key: Option<String>,
        /// A checkpoint or a manifest that you kept: the archive must contain it
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
        #[command(flatten)]
        store: StoreFlags,
        /// The directory to make; it must be empty or not there
        directory: PathBuf,
    },
}
