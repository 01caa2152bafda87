"""A session without ROS: its settings, and the robot's control loop that the bridge node wraps."""
