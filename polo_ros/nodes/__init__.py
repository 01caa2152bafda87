"""ROS 2 around the rooms: each node decodes messages, calls, and publishes."""
