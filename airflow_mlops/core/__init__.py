"""The ML core: plain Python, no Airflow. Start with ``refs``, then the rooms in the order of the lifecycle."""
