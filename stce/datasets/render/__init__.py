"""What draws the embedded `actors`: motion, people, scenery and a small software canvas."""
