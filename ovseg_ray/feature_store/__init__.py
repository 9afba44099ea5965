"""Features of images on disk: vectors of any origin, stores with dense maps, and tables of nearest neighbours."""
