//! The shapes in which wanted objects can be given: one, vectors, arrays, and tuples of these.

use super::Wanted;
use super::sealed::{Parts, Seat, SeatMut};

impl<G> Parts for Wanted<G> {
    type Guards = G;

    fn count(&self) -> usize {
        1
    }

    fn seat(&self, _at: usize) -> Seat<'_> {
        Seat(&*self.0)
    }

    fn seat_mut(&mut self, _at: usize) -> SeatMut<'_> {
        SeatMut(&mut *self.0)
    }

    fn guards(self) -> G {
        self.0.guard()
    }
}

impl<G> Parts for Vec<Wanted<G>> {
    type Guards = Vec<G>;

    fn count(&self) -> usize {
        self.len()
    }

    fn seat(&self, at: usize) -> Seat<'_> {
        self[at].seat(0)
    }

    fn seat_mut(&mut self, at: usize) -> SeatMut<'_> {
        self[at].seat_mut(0)
    }

    fn guards(self) -> Vec<G> {
        self.into_iter().map(Parts::guards).collect()
    }
}

impl<G, const N: usize> Parts for [Wanted<G>; N] {
    type Guards = [G; N];

    fn count(&self) -> usize {
        N
    }

    fn seat(&self, at: usize) -> Seat<'_> {
        self[at].seat(0)
    }

    fn seat_mut(&mut self, at: usize) -> SeatMut<'_> {
        self[at].seat_mut(0)
    }

    fn guards(self) -> [G; N] {
        self.map(Parts::guards)
    }
}

/// A tuple has its parts one after the other.
macro_rules! tuples {
    ($(($($part:ident $at:tt),+);)+) => {$(
        impl<$($part: Parts),+> Parts for ($($part,)+) {
            type Guards = ($($part::Guards,)+);

            fn count(&self) -> usize {
                0 $(+ self.$at.count())+
            }

            fn seat(&self, mut at: usize) -> Seat<'_> {
                $(
                    if at < self.$at.count() {
                        return self.$at.seat(at);
                    }
                    at -= self.$at.count();
                )+
                unreachable!("{at} beyond the last")
            }

            fn seat_mut(&mut self, mut at: usize) -> SeatMut<'_> {
                $(
                    if at < self.$at.count() {
                        return self.$at.seat_mut(at);
                    }
                    at -= self.$at.count();
                )+
                unreachable!("{at} beyond the last")
            }

            fn guards(self) -> Self::Guards {
                ($(self.$at.guards(),)+)
            }
        }
    )+};
}

tuples! {
    (A 0);
    (A 0, B 1);
    (A 0, B 1, C 2);
    (A 0, B 1, C 2, D 3);
    (A 0, B 1, C 2, D 3, E 4);
    (A 0, B 1, C 2, D 3, E 4, F 5);
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6);
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
}
