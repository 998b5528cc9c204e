//! Pins: what became of a tool's definition between the server that offers it and the operator who approves it.
//!
//! A definition is known by its digest. Whatever a server does (a new tool, another definition under the same name, a
//! tool that goes and comes back as something else), a tool is served only while the definition that is offered is the
//! one that an operator approved. All of it is one small state machine, here, so that it can be tried by itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Digest;

/// Whether a tool may be listed and called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PinState {
    /// Nobody has approved it yet.
    Quarantined,
    /// An operator approved this very definition.
    Approved,
    /// It was approved and changed, or an operator blocked it.
    Blocked,
}

impl PinState {
    /// The word in the API and the evidence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantined => "quarantined",
            Self::Approved => "approved",
            Self::Blocked => "blocked",
        }
    }
}

/// Why a tool is not approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PinCause {
    /// It was seen for the first time, under this name.
    New,
    /// Its definition is another one than the approved.
    Changed,
    /// Its server is reached in another way than when it was approved, so it is another server.
    Moved,
    /// An operator blocked it.
    Operator,
}

impl PinCause {
    /// The word in the API and the evidence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Moved => "moved",
            Self::Operator => "operator",
        }
    }
}

/// Something that the plane noticed about a tool by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinFinding {
    /// A tool that was not known.
    New,
    /// Another definition under the same name; the digest is of the one before.
    Changed(Digest),
    /// It is not offered any more.
    Removed,
    /// It is offered again, as it was.
    Returned,
    /// Its server is reached in another way.
    Moved,
}

impl PinFinding {
    /// The word in the evidence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed(_) => "changed",
            Self::Removed => "removed",
            Self::Returned => "returned",
            Self::Moved => "moved",
        }
    }
}

/// The state of one tool of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Whether it may be used.
    pub state: PinState,
    /// Why not.
    pub cause: Option<PinCause>,
    /// Whether its server offered it when it was asked last.
    pub offered: bool,
    /// The definition that is offered, or was last.
    pub digest: Digest,
    /// The definition that was approved last.
    pub approved: Option<Digest>,
}

impl Pin {
    /// A tool that is seen for the first time.
    #[must_use]
    pub fn first(digest: Digest) -> Self {
        Self { state: PinState::Quarantined, cause: Some(PinCause::New), offered: true, digest, approved: None }
    }

    /// Takes in what the server offers now: a definition, or nothing.
    pub fn seen(&mut self, offered: Option<Digest>) -> Option<PinFinding> {
        let Some(digest) = offered else {
            return std::mem::replace(&mut self.offered, false).then_some(PinFinding::Removed);
        };
        let was_offered = std::mem::replace(&mut self.offered, true);
        if digest == self.digest {
            return (!was_offered).then_some(PinFinding::Returned);
        }
        let before = std::mem::replace(&mut self.digest, digest);
        if self.state == PinState::Approved {
            (self.state, self.cause) = (PinState::Blocked, Some(PinCause::Changed));
        }
        Some(PinFinding::Changed(before))
    }

    /// The server is another one than the operator approved it of.
    pub fn moved(&mut self) -> PinFinding {
        if self.state == PinState::Approved || self.cause == Some(PinCause::Changed) {
            (self.state, self.cause) = (PinState::Quarantined, Some(PinCause::Moved));
        }
        PinFinding::Moved
    }

    /// An operator approves the definition that was seen last.
    pub fn approve(&mut self) {
        (self.state, self.cause, self.approved) = (PinState::Approved, None, Some(self.digest));
    }

    /// An operator blocks it, whatever it is.
    pub fn block(&mut self) {
        (self.state, self.cause) = (PinState::Blocked, Some(PinCause::Operator));
    }

    /// Whether it may be listed and called now.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.state == PinState::Approved && self.offered && self.approved == Some(self.digest)
    }

    /// Whether it may be forgotten: nobody decided anything about it, and it is not there any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        !self.offered && self.state == PinState::Quarantined && self.approved.is_none()
    }
}

/// A kind of content in a definition that a person should look at. Nothing is ever removed because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuspicionKind {
    /// Characters that take no room: a model reads them, a person does not.
    ZeroWidth,
    /// Characters that turn the direction of text.
    Bidi,
    /// Escape sequences and other control characters.
    Control,
    /// Characters of the Unicode block of tags: a hidden alphabet.
    Tag,
    /// Selectors of variants, which can carry hidden bytes.
    Variation,
    /// A comment in HTML or Markdown, which many programs do not show.
    HtmlComment,
    /// Letters of several alphabets in one word.
    MixedScript,
    /// Words that address a model, not a user.
    Instruction,
    /// A very long text.
    LongText,
    /// The name looks like the name of another tool of the tenant.
    LookAlike,
    /// Another server of the tenant has a tool of the same name.
    SameName,
}

impl SuspicionKind {
    /// The word in the API and the evidence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ZeroWidth => "zero_width",
            Self::Bidi => "bidi",
            Self::Control => "control",
            Self::Tag => "tag",
            Self::Variation => "variation",
            Self::HtmlComment => "html_comment",
            Self::MixedScript => "mixed_script",
            Self::Instruction => "instruction",
            Self::LongText => "long_text",
            Self::LookAlike => "look_alike",
            Self::SameName => "same_name",
        }
    }
}

/// One such place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Suspicion {
    /// What it is.
    pub kind: SuspicionKind,
    /// Where in the definition: `/description`, `/inputSchema/properties/path`.
    pub at: String,
    /// What stands there, with everything hidden made visible.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::from_bytes([n; 32])
    }

    #[test]
    fn a_tool_is_served_only_as_it_was_approved() {
        let mut pin = Pin::first(digest(1));
        assert!(!pin.is_served());
        assert_eq!(pin.seen(Some(digest(1))), None);
        pin.approve();
        assert!(pin.is_served());
        // The rug is pulled, and put back: an operator has to look either way.
        assert_eq!(pin.seen(Some(digest(2))), Some(PinFinding::Changed(digest(1))));
        assert_eq!((pin.state, pin.cause), (PinState::Blocked, Some(PinCause::Changed)));
        assert_eq!(pin.seen(Some(digest(1))), Some(PinFinding::Changed(digest(2))));
        assert!(!pin.is_served());
        pin.approve();
        assert!(pin.is_served());
    }

    #[test]
    fn what_went_away_comes_back_only_as_it_was() {
        let mut pin = Pin::first(digest(1));
        pin.approve();
        assert_eq!(pin.seen(None), Some(PinFinding::Removed));
        assert_eq!(pin.seen(None), None);
        assert!(!pin.is_served() && !pin.is_gone());
        assert_eq!(pin.seen(Some(digest(1))), Some(PinFinding::Returned));
        assert!(pin.is_served());
        pin.seen(None);
        assert_eq!(pin.seen(Some(digest(2))), Some(PinFinding::Changed(digest(1))));
        assert!(!pin.is_served());
    }

    #[test]
    fn another_server_under_the_same_name_inherits_nothing() {
        let mut pin = Pin::first(digest(1));
        pin.approve();
        pin.moved();
        assert_eq!((pin.state, pin.cause), (PinState::Quarantined, Some(PinCause::Moved)));
        pin.block();
        pin.moved();
        assert_eq!((pin.state, pin.cause), (PinState::Blocked, Some(PinCause::Operator)));
    }

    proptest! {
        /// Whatever a server does after an approval, it is served with the approved definition or not at all, and
        /// once another one was seen, not until a person has looked.
        #[test]
        fn no_sequence_of_offers_serves_what_was_not_approved(offers in proptest::collection::vec(proptest::option::of(0_u8..3), 0..20)) {
            let mut pin = Pin::first(digest(0));
            pin.approve();
            let mut turned = false;
            for offer in offers {
                pin.seen(offer.map(digest));
                turned |= offer.is_some_and(|n| n != 0);
                prop_assert_eq!(pin.is_served(), offer == Some(0) && !turned);
            }
        }

        #[test]
        fn nothing_is_served_without_an_approval(offers in proptest::collection::vec(proptest::option::of(0_u8..3), 0..20), moves: bool) {
            let mut pin = Pin::first(digest(0));
            for offer in offers {
                pin.seen(offer.map(digest));
                if moves { pin.moved(); }
                prop_assert!(!pin.is_served());
            }
        }
    }
}
