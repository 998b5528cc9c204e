//! `cogward witness`, and what `serve` and `evidence` say of witnesses.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};

/// Who is asked to witness the plane log, and where logs are given out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct WitnessFlags {
    /// A witness that is asked to cosign each checkpoint of the plane log: where it takes them, and its public key;
    /// may be repeated
    #[arg(long, value_name = "URL=VKEY", value_parser = witness)]
    pub witness: Vec<(String, String)>,
    /// How many of the witnesses are enough; evidence below that is labelled, not refused [default: all of them]
    #[arg(long, value_name = "N", requires = "witness")]
    pub witness_quorum: Option<usize>,
    /// A C2SP tlog-policy file that says who the witnesses are and which of them are enough
    #[arg(long, value_name = "FILE", conflicts_with = "witness")]
    pub witness_policy: Option<PathBuf>,
    /// Address and port where the logs are given out without a credential, as plain C2SP tlog-tiles below the path of
    /// their origin; off unless given
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub log_listen: Option<SocketAddr>,
}

/// Who is asked for time stamps of the plane log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TimestampFlags {
    /// A time stamp authority (RFC 3161) that is asked to stamp the newest checkpoint of the plane log; up to four
    #[arg(long, value_name = "URL")]
    pub timestamp: Vec<String>,
    /// Seconds between two time stamps of an authority
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub timestamp_every: u32,
}

/// Time stamps of the plane log by file.
#[derive(Debug, Subcommand)]
pub enum Timestamps {
    /// Write a request for a time stamp of the plane log into a file
    #[command(after_help = "The request goes to any authority that speaks RFC 3161; its answer comes back with\n\
        `cogward evidence timestamp import`. What is to be stamped is written beside it, as FILE.checkpoint.\n\n\
        Example:\n  cogward evidence timestamp request plane.tsq\n  \
        curl -H 'content-type: application/timestamp-query' --data-binary @plane.tsq https://tsa.example/ -o plane.tsr")]
    Request {
        /// The file; it must not exist
        file: PathBuf,
    },
    /// Take in the answer of a time stamp authority to a request of this plane
    #[command(
        after_help = "The plane checks that it is over its checkpoint and answers its request. The authority's own\n\
        signature is checked by: openssl ts -verify -in plane.tsr -data plane.tsq.checkpoint -CAfile ca.pem\n\n\
        Example:\n  cogward evidence timestamp import plane.tsr"
    )]
    Import {
        /// The file
        file: PathBuf,
    },
}

fn witness(text: &str) -> Result<(String, String), String> {
    let (url, key) = text.split_once('=').ok_or("write URL=VKEY")?;
    Ok((url.to_owned(), key.to_owned()))
}

/// `witness`
#[derive(Debug, Subcommand)]
pub enum Witness {
    /// Cosign checkpoints of the logs that are named, over HTTP, until SIGTERM (C2SP tlog-witness)
    #[command(
        after_help = "The public keys of a plane's log are in `cogward evidence status` of that plane. The witness's\n\
        own keys are printed at the start; planes name one of them with --witness. The directory is the witness's\n\
        memory: without it, it could be made to sign a log that was cut short.\n\n\
        Example:\n  cogward witness serve --dir w --name auditor.example/w1 --log plane.vkey --listen 127.0.0.1:7422"
    )]
    Serve {
        #[command(flatten)]
        memory: WitnessMemory,
        /// A loopback address and a port; port 0 takes a free one and prints it
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7422")]
        listen: SocketAddr,
    },
    /// Cosign one checkpoint that came as a file, and print it with the cosignature
    #[command(
        after_help = "For a site without a network: there, `cogward evidence checkpoint export --old SIZE` writes the\n\
        file; what this command prints goes back with `cogward evidence checkpoint import`. When the sizes do not\n\
        meet, the error says which one the witness has.\n\n\
        Example:\n  cogward witness sign request.txt --dir w --log plane.vkey > cosigned.txt"
    )]
    Sign {
        /// The request; `-` for standard input
        file: PathBuf,
        #[command(flatten)]
        memory: WitnessMemory,
    },
    /// Print the witness's public keys, Ed25519 and ML-DSA-44
    Key {
        #[command(flatten)]
        memory: WitnessMemory,
    },
}

/// A witness's directory.
#[derive(Debug, Clone, Args)]
pub struct WitnessMemory {
    /// The directory with its keys and its memory; made when it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Its name in cosignatures, a URL without its scheme; kept at the first use
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A file with the public keys of one log that it watches, or one key; may be repeated
    #[arg(long, value_name = "FILE|VKEY")]
    pub log: Vec<String>,
}

/// The exchange of checkpoints by file.
#[derive(Debug, Subcommand)]
pub enum Exchange {
    /// Print what a witness without a network is handed: the plane's checkpoint and that its log only grew
    #[command(after_help = "Example:\n  cogward evidence checkpoint export --old 1200 > request.txt")]
    Export {
        /// The size that the witness saw last; 0, or nothing, the first time
        #[arg(long, value_name = "SIZE")]
        old: Option<u64>,
    },
    /// Take in a checkpoint with what witnesses said of it
    #[command(after_help = "Example:\n  cogward evidence checkpoint import cosigned.txt")]
    Import {
        /// The file; `-` for standard input
        file: PathBuf,
    },
}
