from consilience import steps
