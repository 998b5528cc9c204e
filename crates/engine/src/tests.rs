//! The engine against a real store and a host of fakes: every verb, crashes at every step, races.

mod attest;
mod crash;
mod fakes;
mod files;
mod lifecycle;
mod outside;
mod plane;
mod races;
mod violations;
mod warm;
