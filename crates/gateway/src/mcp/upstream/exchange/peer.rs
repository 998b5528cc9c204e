//! On whose behalf a tool server is asked, and what it may ask back.

use cogward_model::RunId;

/// What the client of an agent can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(in crate::mcp) struct ClientCan(u8);

impl ClientCan {
    /// Nothing.
    pub(in crate::mcp) const NONE: Self = Self(0);
    /// Questions with a form.
    pub(in crate::mcp) const ELICIT_FORM: Self = Self(1);
    /// Questions that send the user to a web page.
    pub(in crate::mcp) const ELICIT_URL: Self = Self(2);
    /// Model calls.
    pub(in crate::mcp) const SAMPLING: Self = Self(4);
    /// Model calls with tools.
    pub(in crate::mcp) const SAMPLING_TOOLS: Self = Self(8);
    /// The roots of its file system.
    pub(in crate::mcp) const ROOTS: Self = Self(16);
    /// Results that come later, as tasks (2026-07-28).
    pub(in crate::mcp) const TASKS: Self = Self(32);

    /// Both together.
    #[must_use]
    pub(in crate::mcp) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub(in crate::mcp) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a server can ask it anything.
    #[must_use]
    pub(in crate::mcp) const fn asked(self) -> bool {
        self.0 & !Self::TASKS.0 != 0
    }

    /// As a JSON object, for `initialize` and `_meta`.
    #[must_use]
    pub(in crate::mcp) fn capabilities(self) -> String {
        let elicitation = match (self.has(Self::ELICIT_FORM), self.has(Self::ELICIT_URL)) {
            (true, true) => Some(r#""elicitation":{"form":{},"url":{}}"#),
            (true, false) => Some(r#""elicitation":{"form":{}}"#),
            (false, true) => Some(r#""elicitation":{"url":{}}"#),
            (false, false) => None,
        };
        let sampling = match (self.has(Self::SAMPLING), self.has(Self::SAMPLING_TOOLS)) {
            (_, true) => Some(r#""sampling":{"tools":{}}"#),
            (true, false) => Some(r#""sampling":{}"#),
            (false, false) => None,
        };
        let roots = self.has(Self::ROOTS).then_some(r#""roots":{}"#);
        let tasks = self.has(Self::TASKS).then_some(r#""extensions":{"io.modelcontextprotocol/tasks":{}}"#);
        let all: Vec<_> = [elicitation, sampling, roots, tasks].into_iter().flatten().collect();
        format!("{{{}}}", all.join(","))
    }
}

/// On whose behalf something is asked. Where nothing can be asked back, all runs share one session; otherwise a
/// session with sessions of its own is the run's alone, so that what it asks can only belong to that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::mcp) struct Peer {
    /// The run.
    pub(in crate::mcp) run: Option<RunId>,
    /// What its client can be asked.
    pub(in crate::mcp) can: ClientCan,
}

impl Peer {
    /// The plane itself, which cannot be asked anything.
    pub(in crate::mcp) const PLANE: Self = Self { run: None, can: ClientCan::NONE };

    /// Whether it has a session of its own at servers that have sessions.
    pub(in crate::mcp::upstream) fn own(self) -> bool {
        self.run.is_some() && self.can.asked()
    }
}

/// How much a server shall say of what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::mcp) enum LogLevel {
    /// Everything.
    Debug,
    /// And so on, as in RFC 5424.
    Info,
    /// Normal and significant.
    Notice,
    /// Warnings.
    Warning,
    /// Errors.
    Error,
    /// Critical conditions.
    Critical,
    /// Action is needed.
    Alert,
    /// The system is unusable.
    Emergency,
}

impl LogLevel {
    /// All of them, from the chattiest.
    pub(in crate::mcp) const ALL: [Self; 8] = [
        Self::Debug,
        Self::Info,
        Self::Notice,
        Self::Warning,
        Self::Error,
        Self::Critical,
        Self::Alert,
        Self::Emergency,
    ];

    /// As MCP writes it.
    #[must_use]
    pub(in crate::mcp) const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }
}
