"""Plan online, learn offline: sampling-based MPC with learned values on ROS 2 and MuJoCo."""

__version__ = "0.1.0"
