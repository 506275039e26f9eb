//! What a copy promises, against stores that misbehave on order.
