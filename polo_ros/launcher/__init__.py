"""Starts a session from a launch file: with ROS 2's own launch where it is installed, else with a small one."""
