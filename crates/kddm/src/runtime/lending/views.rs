//! Programs hear of each view that their node has installed, in order, and tell their own notifiers of it.

use std::sync::Arc;

use kddm_core::id::{Epoch, Incarnation, NodeId, ObjectId, Placement, SetId};
use kddm_core::view::{Member, NodeState, View};
use serde::{Deserialize, Serialize};

use super::frame::Word;
use crate::runtime::Runtime;
use crate::runtime::lane::LaneState;

/// What is said of a view: as much as notifiers hear of it.
#[derive(Serialize, Deserialize)]
struct Said {
    epoch: u32,
    placement: u32,
    /// Number, life and level of each, by ascending number.
    members: Vec<(u16, u32, u8)>,
}

const STATES: [NodeState; 3] = [NodeState::Offline, NodeState::Online, NodeState::Possible];

/// The bytes of a view.
pub(super) fn encode(view: &View) -> Vec<u8> {
    let members = view.members.iter();
    let members = members.map(|member| (member.id.0, member.incarnation.0, member.state as u8)).collect();
    let said = Said { epoch: view.epoch.0, placement: view.placement.0, members };
    postcard::to_stdvec(&said).unwrap_or_default()
}

/// The view in these bytes.
///
/// # Errors
/// What cannot be meant.
pub(super) fn decode(bytes: &[u8]) -> Result<View, &'static str> {
    let (said, rest): (Said, _) = postcard::take_from_bytes(bytes).map_err(|_| "a view that is none")?;
    if !rest.is_empty() {
        return Err("a view with something behind it");
    }
    if !said.members.is_sorted_by(|(one, ..), (next, ..)| one < next) {
        return Err("a view whose members are in no order");
    }
    let member = |(id, incarnation, level): (u16, u32, u8)| {
        let state = STATES.into_iter().find(|state| *state as u8 == level).ok_or("a view with an unknown state")?;
        Ok(Member { id: NodeId(id), incarnation: Incarnation(incarnation), state, ..Member::default() })
    };
    let members = said.members.into_iter().map(member).collect::<Result<_, _>>()?;
    Ok(View { epoch: Epoch(said.epoch), placement: Placement(said.placement), members, ..View::default() })
}

impl Runtime {
    /// The notifiers here and in the programs that are attached hear of a view, after those before it.
    pub fn tell_of_view(&self, view: View) {
        let lane = &self.lanes[0];
        let mut state = lane.lock();
        let all: Vec<u32> = state.desk.sessions.keys().copied().collect();
        if !all.is_empty() {
            let bytes = encode(&view);
            all.into_iter().for_each(|session| state.say_view(session, &bytes));
        }
        lane.finish(state);
        self.notify.installed(view);
    }
}

impl LaneState {
    /// A program that has just been let in hears of the view that is installed: it may have come meanwhile.
    pub(super) fn tell_program_of_view(&mut self, session: u32) {
        let bytes = encode(self.core.view());
        self.say_view(session, &bytes);
    }

    fn say_view(&mut self, session: u32, bytes: &[u8]) {
        self.desk.say_with(session, (SetId::SYSTEM, ObjectId(0)), Word::View, |body| body.extend_from_slice(bytes));
    }

    /// The node has installed a view.
    pub(super) fn lender_installed(&mut self, body: &[u8]) -> Result<(), &'static str> {
        let view = decode(body)?;
        let notify = self.link.as_ref().map(|link| Arc::clone(&link.notify));
        if let Some(notify) = notify {
            notify.installed(view);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let member = |id, state| Member { id: NodeId(id), incarnation: Incarnation(3), state, ..Member::default() };
        let members = vec![member(1, NodeState::Possible), member(7, NodeState::Online)];
        View { epoch: Epoch(2), placement: Placement(5), members, ..View::default() }
    }

    #[test]
    fn what_is_said_of_a_view_is_read_back() {
        assert_eq!(decode(&encode(&view())), Ok(view()));
        assert_eq!(decode(&encode(&View::default())), Ok(View::default()));
    }

    #[test]
    fn what_cannot_be_a_view_is_an_error() {
        let bytes = encode(&view());
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err());
        }
        let mut twice = view();
        twice.members[1] = twice.members[0];
        assert_eq!(decode(&encode(&twice)), Err("a view whose members are in no order"));
        let mut more = bytes.clone();
        more.push(0);
        assert_eq!(decode(&more), Err("a view with something behind it"));
        let mut unknown = bytes;
        let last = unknown.len() - 1;
        unknown[last] = 9;
        assert_eq!(decode(&unknown), Err("a view with an unknown state"));
    }
}
