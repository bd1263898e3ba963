"""The ML core: plain Python, no Airflow. Start with ``refs``; the rooms follow the lifecycle."""
