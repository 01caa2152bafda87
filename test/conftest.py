from polo_ros.process import prepare

prepare()  # tests let physics diverge, and MuJoCo would log it into the current folder
