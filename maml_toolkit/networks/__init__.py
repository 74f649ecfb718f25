"""The U-Net that every method is built from, in pieces."""
