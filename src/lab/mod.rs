//! Throw-away replica sets of real mongod processes, for the demo and the tests.
