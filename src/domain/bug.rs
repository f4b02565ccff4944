//! Deliberate bugs: mistakes that somebody could make here one day, and that the tests have to notice.
//!
//! They can be switched on where this crate is built for its own unit tests and nowhere else: without `cfg(test)`,
//! [`Bugs`] is empty, [`Bugs::has`] is `false` to the compiler, and there is nothing that a setting could change.
//! `src/simulation/deliberate_bugs.rs` names for each of them what catches it.

/// A mistake. Where it is asked for is where it would be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(strum::VariantArray))]
pub(crate) enum Bug {
    /// `Unknown` counts as failing.
    UnknownIsFailing,
    /// A refused credential counts as failing.
    RefusalIsFailing,
    /// The gap of a pause counts as failing time.
    GapIsFailing,
    /// One answer starts the window again.
    AnswerResetsTheWindow,
    /// What was never seen alive under this configuration counts.
    NeverSeenCounts,
    /// The observer does not doubt itself.
    NoSelfDoubt,
    /// Loss is the age of what the standby replayed last.
    LossByAge,
    /// Guards, verdicts and looks are not judged again at the commit point.
    CommitPointNotJudged,
    /// A target is taken whatever its state is.
    AnyTargetWillDo,
    /// A promotion does not wait for the fence.
    PromotionBeforeFence,
    /// Traffic does not wait for what it needs.
    TrafficFirst,
    /// Traffic moves as soon as it can, not after `confirm_for`.
    TrafficUnconfirmed,
    /// Steps that were started are not performed again after a restart.
    StartedStepsForgotten,
    /// A replay draws the plan anew.
    ReplayAsksThePlanner,
    /// The key of a step is another one after a restart.
    KeyChangesAtRestart,
    /// The end of a former attempt is taken for the end of this one.
    OldOutcomeAccepted,
    /// A part unwinds after its commit point.
    UnwoundAfterCommitPoint,
    /// Unwinding leaves the fence up.
    UnwoundWithoutUnfencing,
    /// An escalation joins a plan that is unwinding.
    EscalationJoinsUnwinding,
    /// Old primaries that come back are not fenced.
    OwedFenceForgotten,
    /// A pause holds nothing back.
    PauseIgnored,
    /// Ledger and world may disagree.
    DriftIgnored,
    /// What was moved a moment ago is moved again.
    CooldownIgnored,
    /// Mode `observe` acts.
    ObserveActs,
    /// An approval is good for whatever became of the plan.
    ApprovalOfAnotherPlan,
    /// Effects are performed while their facts are being written.
    PerformedBeforeDurable,
    /// An append whose answer was lost is taken for one that did not happen.
    LostAppendIsFailure,
    /// A failed append is tried again.
    FailedAppendTriedAgain,
    /// A daemon that cannot record goes on with what it had begun.
    HaltedGoesOn,
    /// One region's word is enough.
    QuorumIgnored,
    /// An observer inside the region that sees it alive is not believed.
    WitnessIgnored,
    /// An observer that abstains, or doubts itself, is counted.
    AbstainerCounts,
    /// A ballot counts however old it is.
    StaleBallotCounts,
    /// Two observers in one region have two votes.
    VotesByObserver,
    /// A check of the end state that fails after the failover is told to nobody.
    BrokenCheckForgotten,
    /// A planned move promotes a standby that does not have everything yet.
    CatchUpSkipped,
    /// Nothing is waited for after a role was taken away.
    RoleWaitSkipped,
    /// A new leader acts while calls of the former one may be under way.
    TakeoverAtOnce,
    /// The ledger takes what a deposed leader sends.
    StaleEpochAccepted,
    /// A frame of a lower epoch behind the fence of a higher one counts, on S3.
    LowerEpochApplied,
    /// What was measured before wall and monotonic time jumped apart still counts.
    JumpIgnored,
    /// Nobody waits for the stages of a failback.
    StagesSkipped,
    /// Nobody looks at how a share of the clients does that went back.
    ShareNotWatched,
}

/// Which deliberate bug is switched on. None, outside of the unit tests of this crate.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bugs {
    #[cfg(test)]
    on: Option<Bug>,
}

impl Bugs {
    /// This one, or none.
    #[cfg(test)]
    pub(crate) fn only(on: Option<Bug>) -> Self {
        Self { on }
    }

    /// Whether the mistake is to be made.
    #[cfg(test)]
    pub(crate) fn has(self, bug: Bug) -> bool {
        self.on == Some(bug)
    }

    /// Never.
    #[cfg(not(test))]
    #[inline]
    pub(crate) const fn has(self, _bug: Bug) -> bool {
        false
    }
}
